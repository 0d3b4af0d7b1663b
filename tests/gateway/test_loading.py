"""A model that takes long to load: jobs wait, and Triton is not called well meanwhile."""

from __future__ import annotations

import asyncio

import pytest

from functions._kit.errors import JobFailed, StillLoading
from functions._kit.ports import ServedModel
from gateway.adapters.inference import TritonInference


class SlowTriton(TritonInference):
    """Answers at once, but for loads, which end when the test says so."""

    def __init__(self) -> None:
        super().__init__("127.0.0.1:1", load_patience_s=0.0)
        self.loads = 0
        self.problem: str | None = None
        self.go = asyncio.Event()
        self.there: set[str] = set()

    async def healthy(self) -> bool:
        return True

    async def model_names(self) -> frozenset[str]:
        return frozenset({"model"})

    async def _ready_versions(self, name: str) -> list[str]:
        return ["1"] if name in self.there else []

    async def describe(self, name: str, version: str) -> ServedModel:
        return ServedModel(name, version, {}, {}, {})

    async def load(self, name: str, **_: object) -> None:
        self.loads += 1
        await self.go.wait()
        if self.problem is not None:
            raise JobFailed("model_not_loadable", self.problem)
        self.there.add(name)


async def test_a_load_goes_on_behind_whoever_lost_patience_and_is_done_once() -> None:
    triton = SlowTriton()
    waiting = []
    for _ in range(3):
        with pytest.raises(StillLoading, match="still loading the model 'model'") as told:
            await triton.model("model")
        waiting.append(told.value.loaded)
    assert triton.loads == 1
    triton.go.set()
    async with asyncio.timeout(60):
        for loaded in waiting:
            await loaded()
    assert (await triton.model("model")).version == "1"
    assert triton.loads == 1


async def test_a_load_that_fails_late_is_told_to_all_who_wait_and_tried_again_for_others() -> None:
    triton = SlowTriton()
    triton.problem = "no memory"
    waiting = []
    for _ in range(2):
        with pytest.raises(StillLoading) as told:
            await triton.model("model")
        waiting.append(told.value.loaded)
    triton.go.set()
    async with asyncio.timeout(60):
        for loaded in waiting:
            with pytest.raises(JobFailed, match="no memory"):
                await loaded()
    triton.problem = None
    triton._load_patience_s = None
    assert (await triton.model("model")).version == "1"
    assert triton.loads == 2
