"""What `nereid up` asks of its Triton."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from functions._kit.errors import Conflict
from functions._kit.messages import new_id
from functions._kit.ports import ModelVersion
from gateway.embedded import DataFolder, RunningS3, S3Repository, StartError
from gateway.first_models import FirstModels, still_loading, why_broken
from gateway.models.opening import open_repository
from gateway.models.source import Source
from gateway.settings import Settings
from gateway.system import _on_s3, triton_settings

NAME = "silero-vad"
CONFIG = {"config.pbtxt": f'name: "{NAME}"\n'}


async def test_a_repository_in_the_embedded_s3_is_served_with_its_credentials(
    s3: RunningS3,
) -> None:
    settings = Settings(model_repository=f"s3://{s3.bucket}/{new_id()}")
    filled = Settings(
        model_repository=settings.model_repository,
        s3_endpoint=s3.endpoint,
        s3_access_key=s3.access_key,
        s3_secret_key=s3.secret_key,
    )
    wanted = await _on_s3(settings, s3)
    assert (wanted.models, wanted.exit_on_error) == ((), False)
    assert wanted.repository == S3Repository(
        url=settings.model_repository.replace("s3://", f"s3://{s3.endpoint}/"),
        access_key=s3.access_key,
        secret_key=s3.secret_key,
    )
    async with open_repository(filled) as repository:
        source = Source("a test", {"model.onnx": b"weights"}, CONFIG)
        await repository.add_version(NAME, source)
        await repository.add_version("mine", source)
    assert (await _on_s3(settings, s3)).models == (NAME,)


async def test_a_model_that_is_not_built_is_one_sentence(tmp_path: Path) -> None:
    folder = tmp_path / NAME / "1"
    await asyncio.to_thread(folder.mkdir, parents=True)
    await asyncio.to_thread((folder / "golden.npz").write_bytes, b"answers")
    await asyncio.to_thread((tmp_path / NAME / "config.pbtxt").write_text, "")
    with pytest.raises(StartError, match=f"{NAME} is not built in .*: run `just build-models`"):
        await triton_settings(Settings(model_repository=str(tmp_path)))


async def test_why_a_model_could_not_be_loaded_is_said_in_full(tmp_path: Path) -> None:
    """Triton's API says nothing of a config that does not parse."""
    for name, config in (("unreadable", "inputt [ ]\n"), ("broken", 'name: "broken"\n')):
        await asyncio.to_thread((tmp_path / name).mkdir)
        await asyncio.to_thread((tmp_path / name / "config.pbtxt").write_text, config)

    async def versions() -> list[ModelVersion]:
        return [ModelVersion("broken", "1", "unavailable", "Internal: no memory\nat line 1")]

    triton: Any = SimpleNamespace(versions=versions)
    settings = Settings(model_repository=str(tmp_path))
    assert await why_broken(settings, triton, "broken") == "Internal: no memory"
    said = await why_broken(settings, triton, "unreadable")
    assert 'unreadable/config.pbtxt:1:1 : Message type "inference.ModelConfig"' in said


async def test_what_a_killed_start_left_of_its_progress_is_not_told_for_ever(
    tmp_path: Path,
) -> None:
    folder = DataFolder(tmp_path)
    await folder.open()
    try:
        FirstModels(Settings(), folder, ["a", "b"], lambda _: None)
        assert still_loading(tmp_path) == {"models": "a is being loaded, 1 of 2"}
        models = FirstModels(Settings(), folder, [], lambda _: None)
        assert models.loaded.is_set()
        assert still_loading(tmp_path) == {}
        folder.write("loading.json", "{")
        assert still_loading(tmp_path) == {}
    finally:
        folder.close()


async def test_models_are_loaded_although_it_cannot_be_noted(tmp_path: Path) -> None:
    def full(*_: object) -> None:
        raise Conflict("data_unusable", "No space left on device")

    loaded: list[str] = []

    async def load(name: str) -> None:
        loaded.append(name)

    folder: Any = SimpleNamespace(path=tmp_path, write=full)
    triton: Any = SimpleNamespace(load=load)
    models = FirstModels(Settings(), folder, ["a", "b"], lambda _: None)
    await models._load_all(triton)
    assert loaded == ["a", "b"]
    assert models.loaded.is_set()
