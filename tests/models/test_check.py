"""A version is checked by a real Triton: what is sound is loaded, whatever else touches nothing."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import pytest_asyncio

from functions._kit.errors import JobFailed
from functions._kit.fakes import FakeKeyValue
from functions._kit.rollout.state import Target, last_check
from gateway.adapters.inference import TritonInference
from gateway.embedded import EmbeddedServers, EmbeddedSettings, RunningTriton, TritonSettings
from gateway.models.check import Checker
from gateway.models.folder import FolderFiles
from gateway.models.golden import read_golden, write_golden
from gateway.models.repository import ModelRepository
from gateway.models.source import read_folder
from gateway.settings import CHECKOUT

X2 = "realesr-animevideov3-x2"
PUBLISHED = CHECKOUT / "model_repository"
PICTURE = {"image": np.full((1, 8, 8, 3), 200, np.uint8)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model repository of this module's own, with one published upscaler."""
    folder = tmp_path_factory.mktemp("models")
    shutil.copytree(PUBLISHED / X2, folder / X2)
    return folder


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def own_triton(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[RunningTriton]:
    settings = EmbeddedSettings(triton=TritonSettings(repository=folder))
    data = tmp_path_factory.mktemp("triton")
    async with EmbeddedServers(data, want={"triton"}, settings=settings) as servers:
        yield servers.triton


class Lab:
    """A checker over a real Triton, and versions to be checked."""

    def __init__(self, triton: TritonInference, folder: Path, scratch: Path) -> None:
        self.triton = triton
        self.folder = folder
        self.values = FakeKeyValue()
        self.repository = ModelRepository(FolderFiles(folder))
        self.said: list[str] = []
        self.checker = Checker(
            repository=self.repository,
            server=triton,
            inference=triton,
            values=self.values,
            max_latency_ratio=1000,  # nothing is measured here
            say=self.said.append,
        )
        self._scratch = scratch

    async def added(self, name: str = X2, **files: bytes) -> Target:
        """The published version again under the next number, with other files."""
        source = self._scratch / name / str(len(list(self._scratch.glob("*/*"))))
        shutil.copytree(PUBLISHED / X2 / "1", source)
        for path, content in files.items():
            (source / path.replace("_", ".")).write_bytes(content)
        version = await self.repository.add_version(name, read_folder(source))
        return Target(model=name, version=version)

    async def ready(self) -> list[tuple[str, str]]:
        """What serves; unloading goes on in the background, so only what stays is told."""
        return [(v.model, v.version) for v in await self.triton.versions() if v.state == "ready"]

    async def until_ready(self, *versions: str) -> None:
        async with asyncio.timeout(60):
            while await self.ready() != [(X2, version) for version in versions]:
                await asyncio.sleep(0.02)


@pytest_asyncio.fixture
async def lab(own_triton: RunningTriton, folder: Path, tmp_path: Path) -> AsyncIterator[Lab]:
    async with TritonInference(own_triton.url) as triton:
        lab = Lab(triton, folder, tmp_path)
        await triton.load(X2)
        yield lab
        for version in (await lab.repository.versions(X2))[1:]:
            await lab.repository.remove_version(X2, version)
        await triton.load(X2)
        await lab.until_ready("1")


def other_weights() -> bytes:
    """The network of another scale."""
    return (PUBLISHED / "realesr-animevideov3-x3" / "1" / "model.onnx").read_bytes()


def commented(onnx: bytes) -> bytes:
    """The same network in other bytes: a field that nobody knows is skipped by every reader."""
    return onnx + b"\xfa\x3e\x01\x00"  # field 1007, length-delimited, one byte


async def test_a_sound_version_is_loaded_beside_the_one_that_serves(lab: Lab) -> None:
    published = (PUBLISHED / X2 / "1" / "model.onnx").read_bytes()
    target = await lab.added(model_onnx=commented(published))
    assert await lab.ready() == [(X2, "1")], "adding loads nothing"
    active = await lab.triton.model(X2, "1")
    found = await lab.checker.check(target)
    assert (found.passed, found.golden) == (True, True), found.problems
    assert found.latency_s
    assert found.active_latency_s
    await lab.until_ready("1", target.version)
    assert await lab.repository.admitted(X2) == ["1", target.version]
    for model in (active, await lab.triton.model(X2, target.version)):
        assert (await lab.triton.infer(model, PICTURE))["upscaled"].shape == (1, 16, 16, 3)
    known = last_check(lab.values, target)
    assert known == found
    assert known.sha256 == await lab.repository.sha256(X2, target.version)

    asked = len(lab.said)
    await lab.checker.ensure(target)
    assert len(lab.said) == asked, "what has passed and is loaded is not checked again"


@pytest.mark.parametrize("fault", ["truncated", "another scale", "other golden answers"])
async def test_a_broken_version_is_refused_with_its_reason_and_touches_nothing(
    lab: Lab, fault: str
) -> None:
    content = (PUBLISHED / X2 / "1" / "model.onnx").read_bytes()
    golden = read_golden((PUBLISHED / X2 / "1" / "golden.npz").read_bytes())
    darker = {name: array // 2 for name, array in golden.outputs.items()}
    target, reason = {
        "truncated": (await lab.added(model_onnx=content[:9000]), "can't be parsed"),
        "another scale": (await lab.added(model_onnx=other_weights()), "is due"),
        "other golden answers": (
            await lab.added(
                model_onnx=commented(content),
                golden_npz=write_golden(msgspec.structs.replace(golden, outputs=darker)),
            ),
            "golden answers: `upscaled` differs by",
        ),
    }[fault]
    text = await lab.repository.config(X2)
    found = await lab.checker.check(target)
    assert not found.passed
    assert reason in "; ".join(found.problems)
    assert await lab.ready() == [(X2, "1")]
    assert await lab.repository.config(X2) == text
    with pytest.raises(JobFailed) as caught:
        await lab.checker.ensure(target)
    assert caught.value.code == "check_failed"
    assert reason in caught.value.message
    last = last_check(lab.values, target)
    assert last
    assert not last.passed


async def test_a_config_that_does_not_parse_is_refused_with_line_and_reason(lab: Lab) -> None:
    name = "mine"
    shutil.copytree(PUBLISHED / X2, lab.folder / name)
    try:
        config = lab.folder / name / "config.pbtxt"
        config.write_text(config.read_text().replace(X2, name))
        await lab.repository.seal(name, "1")
        text = config.read_text()
        config.write_text(text.replace("TYPE_UINT8", "TYPE_PICTURE", 1))
        found = await lab.checker.check(Target(model=name, version="1"))
        (problem,) = found.problems
        assert "config.pbtxt:6:36" in problem
        assert "TYPE_PICTURE" in problem
        assert await lab.ready() == [(X2, "1")]
    finally:
        shutil.rmtree(lab.folder / name)


async def test_a_version_that_was_changed_after_it_was_added_is_refused(lab: Lab) -> None:
    published = (PUBLISHED / X2 / "1" / "model.onnx").read_bytes()
    target = await lab.added(model_onnx=commented(published))
    file = lab.folder / X2 / target.version / "model.onnx"
    file.write_bytes(other_weights())
    found = await lab.checker.check(target)
    assert "is not what was added" in found.problems[0]
    assert await lab.ready() == [(X2, "1")]


async def test_a_version_that_is_too_slow_is_refused(lab: Lab) -> None:
    published = (PUBLISHED / X2 / "1" / "model.onnx").read_bytes()
    target = await lab.added(model_onnx=commented(published))
    strict = replace(lab.checker, max_latency_ratio=1e-9)
    found = await strict.check(target)
    assert "times as long (limit 1e-09" in found.problems[0]
    assert await lab.ready() == [(X2, "1")]
