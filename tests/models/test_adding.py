"""What `nereid models add` and `remove` make of networks, folders and S3 prefixes."""

from __future__ import annotations

import asyncio
import importlib.util
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner, Result
from onnx import TensorProto, helper, numpy_helper

from functions._kit.errors import Conflict, NereidError, NotFound, Unprocessable
from functions._kit.messages import new_id
from gateway.adapters.objects import open_objects
from gateway.cli.main import main
from gateway.embedded import RunningS3
from gateway.models import probing, reference
from gateway.models.adding import Added, Wanted, add
from gateway.models.config import parse_config
from gateway.models.fetching import fetched
from gateway.models.folder import FolderFiles
from gateway.models.golden import Golden, read_golden, write_golden
from gateway.models.opening import repository_address
from gateway.models.place import S3Place
from gateway.models.removing import remove
from gateway.models.repository import ModelRepository
from gateway.models.s3 import S3Files
from gateway.settings import CHECKOUT, Settings

NANODET = CHECKOUT / "model_repository" / "nanodet-g-416"


def brightener(file: Path, by: float = 1.0, factor: int = 2) -> Path:
    """A network: planes of 0 to 1, each pixel `factor` times as wide and high, and brighter."""
    nodes = [
        helper.make_node("Mul", ["x", "by"], ["brighter"]),
        helper.make_node("Resize", ["brighter", "", "scales"], ["y"], mode="nearest",
                         nearest_mode="floor", coordinate_transformation_mode="asymmetric"),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "brightener",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", 3, "h", "w"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", 3, "H", "W"])],
        [
            numpy_helper.from_array(np.array(by, np.float32), "by"),
            numpy_helper.from_array(np.array([1, 1, factor, factor], np.float32), "scales"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, str(file))
    return file


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "repository").mkdir()
    return tmp_path / "repository"


@pytest.fixture
def repository(root: Path) -> ModelRepository:
    return ModelRepository(FolderFiles(root))


async def added(repository: ModelRepository, place: Path, **wanted: Any) -> list[Added]:
    def say(_line: str) -> None:
        """The user's terminal."""

    return await add(repository, place, str(place), Wanted(**wanted), say=say)


async def test_a_network_becomes_two_models_and_its_successor_their_next_versions(
    repository: ModelRepository, tmp_path: Path
) -> None:
    first = await added(repository, brightener(tmp_path / "first.onnx"), name="mine")
    assert first == [Added("mine", "1"), Added("mine-16bit", "1")]
    second = await added(repository, brightener(tmp_path / "second.onnx", 0.5), name="mine")
    assert second == [Added("mine", "2"), Added("mine-16bit", "2")]
    assert await repository.admitted("mine") == ["1"]
    with pytest.raises(Conflict) as caught:
        await added(repository, tmp_path / "second.onnx", name="mine")
    assert caught.value.code == "version_exists"
    with pytest.raises(Conflict, match=r"parameters\.scale differ") as caught:
        await added(repository, brightener(tmp_path / "third.onnx", 1, 3), name="mine")
    assert caught.value.code == "config_differs"
    assert await repository.versions("mine") == ["1", "2"]


async def test_what_a_crash_kept_from_its_twin_is_added_later(
    repository: ModelRepository, tmp_path: Path
) -> None:
    file = brightener(tmp_path / "mine.onnx")
    await added(repository, file)
    await repository.remove_model("mine-16bit")
    assert await added(repository, file) == [Added("mine-16bit", "2")]


async def test_a_network_gets_golden_answers_that_it_gives(
    repository: ModelRepository, root: Path, tmp_path: Path
) -> None:
    await added(repository, brightener(tmp_path / "mine.onnx", 0.5))
    for name in ("mine", "mine-16bit"):
        content = await repository.golden(name, "1")
        assert content is not None
        golden = read_golden(content)
        session = onnxruntime.InferenceSession(str(root / name / "1" / "model.onnx"))
        (upscaled,) = session.run(None, golden.inputs)
        assert golden.compare({"upscaled": upscaled}) == []
        darker = (upscaled * 0.9).astype(upscaled.dtype)
        assert len(golden.compare({"upscaled": darker})) >= 1


def test_onnx_itself_computes_them_where_there_is_no_onnx_runtime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    file = brightener(tmp_path / "mine.onnx", 0.5)
    names, (answer,) = reference.answered(file, {"x": np.ones((1, 3, 2, 2), np.float32)})
    assert names == ["y"]
    np.testing.assert_array_equal(answer, np.full((1, 3, 4, 4), 0.5, np.float32))


async def test_golden_answers_that_take_too_long_are_left_out(
    repository: ModelRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probing, "LONGEST_S", 0)
    (one, _) = await added(repository, brightener(tmp_path / "mine.onnx"))
    assert one.without_golden == "computing them takes longer than 0 s"
    assert await repository.golden("mine", "1") is None


async def test_a_folder_of_a_model_is_added_as_it_is(repository: ModelRepository) -> None:
    assert await added(repository, NANODET) == [Added("nanodet-g-416", "1")]
    assert await added(repository, NANODET, name="other") == [Added("other", "1")]
    files = await repository.files("other", "1")
    for path in ("1/model.onnx", "1/golden.npz", "labels.txt", "LICENSE"):
        assert files[path] == await asyncio.to_thread((NANODET / path).read_bytes)
    assert "tensorrt_plan" in await repository.config("other", "tensorrt")
    assert await repository.admitted("other") == ["1"]


async def test_a_folder_of_a_version_is_added_to_its_model(
    repository: ModelRepository, tmp_path: Path
) -> None:
    await added(repository, NANODET)
    for folder in (tmp_path / "nanodet-g-416" / "7", tmp_path / "weights"):
        await asyncio.to_thread(folder.mkdir, parents=True)
        await asyncio.to_thread((folder / "model.onnx").write_bytes, folder.name.encode())
    (second,) = await added(repository, tmp_path / "nanodet-g-416" / "7")
    assert (second.model, second.version) == ("nanodet-g-416", "2")
    assert second.without_golden.startswith("computing them failed: ")
    with pytest.raises(Unprocessable, match="--name") as caught:
        await added(repository, tmp_path / "weights")
    assert caught.value.code == "name_needed"
    (third,) = await added(repository, tmp_path / "weights", name="nanodet-g-416")
    assert third.version == "3"


async def test_golden_answers_may_be_given(repository: ModelRepository, tmp_path: Path) -> None:
    golden = Golden(
        inputs={"image": np.zeros((1, 2, 2, 3), np.uint8)},
        outputs={"upscaled": np.zeros((1, 4, 4, 3), np.uint8)},
    )
    file = tmp_path / "mine.npz"
    await asyncio.to_thread(file.write_bytes, write_golden(golden))
    await added(repository, NANODET, golden=file)
    assert await repository.golden("nanodet-g-416", "1") == write_golden(golden)
    await asyncio.to_thread(file.write_bytes, b"none")
    with pytest.raises(Unprocessable) as caught:
        await added(repository, NANODET, name="other", golden=file)
    assert caught.value.code == "golden_invalid"
    with pytest.raises(Unprocessable, match="all of mine, mine-16bit"):
        await added(repository, brightener(tmp_path / "mine.onnx"), golden=file)
    assert await repository.models() == ["nanodet-g-416"]


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ('parameters { key: "capability" value { string_value: "transcribe" } }', "no capability"),
        ('default_model_filename: "model.plan"', "it has no model.onnx"),
        ('parameters { key: "capability" value { string_value: "upscale" } }', "no capability"),
    ],
)
async def test_why_there_are_no_golden_answers_is_said(
    tmp_path: Path, config: str, reason: str
) -> None:
    brightener(tmp_path / "model.onnx")
    found = await probing.probe_answers(tmp_path, parse_config(config))
    assert isinstance(found, str)
    assert reason in found


def settings_of(s3: RunningS3, **more: Any) -> Settings:
    return Settings(
        s3_endpoint=s3.endpoint, s3_access_key=s3.access_key, s3_secret_key=s3.secret_key, **more
    )


async def test_what_lies_in_s3_is_fetched_first(s3: RunningS3, tmp_path: Path) -> None:
    prefix = new_id()
    settings = settings_of(s3)
    address = repository_address(settings, S3Place(s3.bucket, prefix))
    async with open_objects(address) as objects:
        files = S3Files(objects, prefix)
        await files.write("mine/config.pbtxt", b'name: "mine"')
        await files.write("mine/1/model.onnx", b"weights")
    place = f"s3://{s3.bucket}/{prefix}"
    folder = await fetched(f"{place}/mine/", settings, tmp_path / "a")
    assert folder == tmp_path / "a" / "mine"
    found = await asyncio.to_thread(lambda: sorted(p.name for p in folder.rglob("*")))
    assert found == ["1", "config.pbtxt", "model.onnx"]
    with_endpoint = f"s3://{s3.endpoint}/{s3.bucket}/{prefix}/mine/1/model.onnx"
    (tmp_path / "b").mkdir()
    file = await fetched(with_endpoint, settings, tmp_path / "b")
    assert await asyncio.to_thread(file.read_bytes) == b"weights"
    for absent in (f"{place}/absent", str(tmp_path / "absent")):
        with pytest.raises(NotFound, match="there is nothing at") as caught:
            await fetched(absent, settings, tmp_path)
        assert caught.value.code == "source_not_found"
    with pytest.raises(Unprocessable, match="names the bucket"):
        await fetched("s3://", settings, tmp_path)


class Server:
    """Notes what it is told, and which versions lay there then."""

    def __init__(self, repository: ModelRepository) -> None:
        self._repository = repository
        self.told: list[tuple[str, str, list[str], list[str]]] = []

    async def load(self, name: str, **_: Any) -> None:
        await self._note("load", name)

    async def unload(self, name: str) -> None:
        await self._note("unload", name)

    async def _note(self, word: str, name: str) -> None:
        versions = await self._repository.versions(name)
        self.told.append((word, name, versions, await self._repository.admitted(name)))


def nothing(_model: str, _version: str) -> None:
    """Nobody uses anything."""


async def test_triton_unloads_a_version_before_its_files_go(
    repository: ModelRepository, tmp_path: Path
) -> None:
    await added(repository, NANODET)
    for number in ("2", "3"):
        (tmp_path / number).mkdir()
        await asyncio.to_thread((tmp_path / number / "model.onnx").write_text, number)
        await added(repository, tmp_path / number, name="nanodet-g-416")
    await repository.admit("nanodet-g-416", "2")
    server: Any = Server(repository)
    name = "nanodet-g-416"
    await remove(repository, name, "3", in_use=nothing, server=server)  # never loaded
    assert server.told == []
    assert await remove(repository, name, "1", in_use=nothing, server=server) == ["1"]
    assert server.told == [("load", name, ["1", "2"], ["2"])]
    assert await repository.versions(name) == ["2"]
    assert await remove(repository, name, None, in_use=nothing, server=server) == ["2"]
    assert server.told[1:] == [("unload", name, ["2"], ["2"])]
    assert await repository.models() == []


async def test_what_is_in_use_stays(repository: ModelRepository) -> None:
    await added(repository, NANODET)
    server: Any = Server(repository)
    for version in ("1", None):
        with pytest.raises(Conflict, match="for it serves detect: switch") as caught:
            await remove(
                repository,
                "nanodet-g-416",
                version,
                in_use=lambda model, version: f"serves detect{'' if model and version else '?'}",
                server=server,
            )
        assert caught.value.code == "version_in_use"
    assert (server.told, await repository.versions("nanodet-g-416")) == ([], ["1"])
    with pytest.raises(NereidError, match="no version '9'"):
        await remove(repository, "nanodet-g-416", "9", in_use=nothing, server=server)


def test_the_commands_say_what_they_did(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NEREID_NATS_URL", "NEREID_TRITON_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NEREID_MODEL_REPOSITORY", str(root))
    monkeypatch.setenv("NEREID_DATA", str(tmp_path / "data"))

    def models(*words: str) -> Result:
        return CliRunner().invoke(main, ["models", *words])

    done = models("add", str(NANODET), "--name", "mine")
    assert (done.exit_code, done.output) == (0, "mine: added version 1\n")
    shutil.copytree(NANODET / "1", tmp_path / "2")
    (tmp_path / "2" / "model.onnx").write_bytes(b"other")
    (tmp_path / "2" / "golden.npz").unlink()
    done = models("add", str(tmp_path / "2"), "--name", "mine")
    assert "mine: added version 2\nmine: it has no golden answers, for" in done.output
    again = models("add", str(NANODET), "--name", "mine")
    assert again.exit_code == 1
    assert "holds what version 1 of mine is already" in again.output
    done = models("remove", "mine", "2")
    assert done.exit_code == 0
    assert "mine: removed version 2" in done.output
    done = models("remove", "mine")
    assert "mine: removed version 1" in done.output
    absent = models("remove", "mine")
    assert (absent.exit_code, "there is no model 'mine'" in absent.output) == (1, True)
