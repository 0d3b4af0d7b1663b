"""The backend `openvino` when memory or its process goes; on a Triton of the file's own."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import psutil
import pytest
import pytest_asyncio

from functions._kit.errors import Unavailable
from gateway.adapters.inference import TritonInference
from gateway.embedded import EmbeddedServers

pytestmark = pytest.mark.asyncio(loop_scope="module")

MODEL = "realesr-animevideov3-x2"
SMALL = {"image": np.zeros((1, 32, 32, 3), np.uint8)}
LARGE = {"image": np.zeros((1, 559, 979, 3), np.uint8)}


@dataclass(frozen=True)
class Own:
    servers: EmbeddedServers
    server: psutil.Process
    inference: TritonInference
    backend: psutil.Process


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def own(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Own]:
    """One server with one model, which has answered once."""
    data = tmp_path_factory.mktemp("own-triton")
    async with EmbeddedServers(data, want={"triton"}) as servers:  # noqa: SIM117 - needs url
        async with TritonInference(servers.triton.url) as inference:
            await inference.infer(await inference.model(MODEL), SMALL)
            (backend,) = (
                child
                for child in psutil.Process(servers.triton.process.pid).children()
                if "stub" in child.name()
            )
            server = psutil.Process(servers.triton.process.pid)
            yield Own(servers, server, inference, backend)


async def test_out_of_memory_is_unavailable_and_passes(own: Own) -> None:
    model = await own.inference.model(MODEL)
    before = own.backend.rlimit(resource.RLIMIT_AS)
    own.backend.rlimit(resource.RLIMIT_AS, (own.backend.memory_info().vms + (60 << 20), before[1]))
    with pytest.raises(Unavailable, match="out of memory"):
        await own.inference.infer(model, LARGE)
    own.backend.rlimit(resource.RLIMIT_AS, before)
    assert (await own.inference.infer(model, SMALL))["upscaled"].shape == (1, 64, 64, 3)


async def test_a_server_that_hangs_is_noticed_long_before_a_tile_may_take(own: Own) -> None:
    url = own.servers.triton.url
    async with TritonInference(url, watch_s=0.2, status_timeout_s=0.2) as impatient:
        model = await own.inference.model(MODEL)
        own.server.suspend()
        try:
            with pytest.raises(Unavailable, match="does not answer"):
                await impatient.infer(model, SMALL)
        finally:
            own.server.resume()
    assert (await own.inference.infer(model, SMALL))["upscaled"].shape == (1, 64, 64, 3)


async def test_a_killed_backend_costs_one_unavailable_and_comes_back(own: Own) -> None:
    """The last of the file: after it the server is another."""
    model = await own.inference.model(MODEL)
    # Triton itself aborts now and then when its stub dies, and is started again
    watching = asyncio.create_task(own.servers.supervise(lambda *_: None))
    own.backend.kill()
    with pytest.raises(Unavailable):
        await own.inference.infer(model, SMALL)
    answer = None
    while answer is None:
        await asyncio.sleep(0.1)
        with suppress(Unavailable):
            answer = await own.inference.infer(await own.inference.model(MODEL), SMALL)
    assert answer["upscaled"].shape == (1, 64, 64, 3)
    watching.cancel()
    await asyncio.wait({watching})
