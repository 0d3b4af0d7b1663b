"""One suite over the fake and over a real Triton: what `ModelServer` promises."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
from google.protobuf import json_format  # type: ignore[import-untyped]
from numpy.typing import NDArray

from functions._kit.errors import JobFailed, NotFound
from functions._kit.fakes import FakeInference
from functions._kit.fakes.inference import DEFAULT_MODELS
from gateway.adapters.inference import TritonInference
from gateway.embedded import EmbeddedServers, EmbeddedSettings, RunningTriton, TritonSettings
from gateway.models.config import parse_config, with_policy
from gateway.settings import CHECKOUT

X2 = "realesr-animevideov3-x2"
PICTURE: NDArray[np.uint8] = np.full((1, 8, 8, 3), 200, np.uint8)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of one model; `Server.on_disk` says which of its versions there are."""
    repository = tmp_path_factory.mktemp("models")
    shutil.copytree(CHECKOUT / "model_repository" / X2, repository / X2)
    return repository


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def own_triton(
    repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[RunningTriton]:
    """A Triton of this module's own: its tests load and unload."""
    settings = EmbeddedSettings(triton=TritonSettings(repository=repository))
    data = tmp_path_factory.mktemp("triton")
    async with EmbeddedServers(data, want={"triton"}, settings=settings) as servers:
        yield servers.triton


@dataclass
class Server:
    """The port, and the means to put versions into its repository."""

    port: FakeInference | TritonInference
    folder: Path | None

    def on_disk(self, *versions: str, broken: str = "") -> None:
        """The config names these versions; the file of `broken` ends too early."""
        if isinstance(self.port, FakeInference):
            self.port.on_disk[X2] = versions
            self.port.broken = {(X2, broken): "the model can't be parsed"} if broken else {}
            return
        assert self.folder is not None
        for version in versions:
            folder = self.folder / X2 / version
            if not folder.exists():
                shutil.copytree(self.folder / X2 / "1", folder)
            if version == broken:
                file = folder / "model.onnx"
                file.write_bytes(file.read_bytes()[:10_000])
        config = self.folder / X2 / "config.pbtxt"
        config.write_text(with_policy(config.read_text(), versions))

    async def ready(self) -> list[str]:
        return [
            found.version
            for found in await self.port.versions()
            if found.model == X2 and found.state == "ready"
        ]

    async def until_ready(self, *versions: str) -> None:
        async with asyncio.timeout(60):  # Triton unloads in the background
            while await self.ready() != [*versions]:
                await asyncio.sleep(0.02)


@pytest.fixture(params=["fake", "triton"])
def address(request: pytest.FixtureRequest) -> str | None:
    """Where the real server is; None for the fake."""
    return request.getfixturevalue("own_triton").url if request.param == "triton" else None


@pytest_asyncio.fixture
async def server(address: str | None, repository: Path) -> AsyncIterator[Server]:
    if address is None:
        yield Server(FakeInference({X2: DEFAULT_MODELS[X2]}), None)
        return
    async with TritonInference(address) as triton:
        served = Server(triton, repository)
        yield served
        served.on_disk("1")
        await triton.unload(X2)
        await served.until_ready()


async def test_versions_come_and_go_as_the_config_says_and_all_answer(server: Server) -> None:
    assert await server.ready() == []
    server.on_disk("1", "2")
    await server.port.load(X2)
    assert await server.ready() == ["1", "2"]
    for version in ("1", "2"):
        model = await server.port.model(X2, version)
        assert model.version == version
        answer = await server.port.infer(model, {"image": PICTURE})
        assert answer["upscaled"].shape == (1, 16, 16, 3)
    server.on_disk("2")
    await server.port.load(X2)
    await server.until_ready("2")
    assert (await server.port.model(X2)).version in {"1", "2"}


async def test_a_version_that_cannot_be_loaded_is_refused_with_the_reason_and_others_serve_on(
    server: Server,
) -> None:
    server.on_disk("1")
    model = await server.port.model(X2)
    server.on_disk("1", "3", broken="3")
    with pytest.raises(JobFailed) as caught:
        await server.port.load(X2)
    assert caught.value.code == "model_not_loadable"
    assert "can't be parsed" in caught.value.message
    answer = await server.port.infer(model, {"image": PICTURE})
    assert answer["upscaled"].shape == (1, 16, 16, 3)
    states = {v.version: v for v in await server.port.versions() if v.model == X2}
    assert states["1"].state == "ready"
    assert states["3"].state == "unavailable"
    assert "can't be parsed" in states["3"].reason


async def test_a_version_that_is_not_there_is_not_found(server: Server) -> None:
    server.on_disk("1")
    for version in ("7", "0"):
        with pytest.raises(NotFound) as caught:
            await server.port.model(X2, version)
        assert caught.value.code == "model_version_not_found"
    with pytest.raises(NotFound):
        await server.port.describe(X2, "7")


async def test_without_a_version_the_oldest_that_is_loaded_serves(server: Server) -> None:
    server.on_disk("2", "10")
    await server.port.load(X2)
    assert (await server.port.model(X2)).version == "2"


async def test_an_unloaded_model_is_gone_and_unloading_it_again_is_no_error(
    server: Server,
) -> None:
    server.on_disk("1")
    await server.port.load(X2)
    await server.port.unload(X2)
    await server.until_ready()
    await server.port.unload(X2)


async def test_what_a_version_has_done_is_counted(server: Server) -> None:
    server.on_disk("1")
    model = await server.port.model(X2)
    before = (await server.port.statistics())[X2, "1"]
    for _ in range(3):
        await server.port.infer(model, {"image": PICTURE})
    async with asyncio.timeout(60):  # Triton counts a moment after it has answered
        while (after := (await server.port.statistics())[X2, "1"]).requests < before.requests + 3:
            await asyncio.sleep(0.01)
    assert after.requests - before.requests == 3
    assert after.failures == before.failures


async def test_a_model_may_come_from_bytes_and_leaves_the_repository_alone(
    own_triton: RunningTriton, repository: Path
) -> None:
    text = (CHECKOUT / "model_repository" / X2 / "config.pbtxt").read_text()
    config = parse_config(with_policy(text, ["5"]))
    config.name = "on-trial"
    content = (repository / X2 / "1" / "model.onnx").read_bytes()
    async with TritonInference(own_triton.url) as triton:
        given = json_format.MessageToJson(config, preserving_proto_field_name=True)
        await triton.load("on-trial", config=given, files={"5/model.onnx": content})
        model = await triton.describe("on-trial", "5")
        answer = await triton.infer(model, {"image": PICTURE})
        assert answer["upscaled"].shape == (1, 16, 16, 3)
        with pytest.raises(JobFailed, match="can't be parsed"):
            await triton.load("broken", config=given.replace("on-trial", "broken"),
                              files={"5/model.onnx": content[:9000]})  # fmt: skip
        await triton.unload("on-trial")
        async with asyncio.timeout(60):
            while True:
                try:
                    await triton.describe("on-trial", "5")
                except NotFound:
                    break
    assert await asyncio.to_thread(lambda: [path.name for path in repository.iterdir()]) == [X2]
