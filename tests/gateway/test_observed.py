"""Candidates are shadowed and timed beside the caller's answer, never in its way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
import pytest_asyncio
from numpy.typing import NDArray

from functions._kit.errors import JobFailed, OutOfMemory, Unavailable
from functions._kit.fakes import FakeInference, FakeKeyValue
from functions._kit.fakes.inference import DEFAULT_MODELS
from functions._kit.messages import now
from functions._kit.ports import ServedModel
from functions._kit.rollout.evidence import ROLLOUTS, Evidence, collected
from functions._kit.rollout.state import CAPABILITIES, Candidate, Plan, Serving, Stage, Target
from gateway.adapters.observed import SHADOWS_AT_ONCE, ObservedInference

X2 = "realesr-animevideov3-x2"
ONE, TWO = Target(model=X2, version="1"), Target(model=X2, version="2")
PICTURE = {"image": np.full((1, 8, 8, 3), 100, np.uint8)}


class World:
    def __init__(self) -> None:
        self.fake = FakeInference({X2: {"capability": "upscale", **DEFAULT_MODELS[X2]}})
        self.fake.on_disk[X2] = ("1", "2")
        self.values = FakeKeyValue()
        self.observed = ObservedInference(self.fake, self.values)
        self.candidate: Candidate

    async def tries(self, stage: Stage = "shadow", **plan: Any) -> None:
        """Version 2 is tried while version 1 serves."""
        self.candidate = Candidate(
            target=TWO, plan=Plan(**plan), stage=stage, rollout_id=f"of {stage}", since=now()
        )
        serving = Serving(active=ONE, candidate=self.candidate)
        await self.values.put(CAPABILITIES, "upscale.x2", msgspec.json.encode(serving))

    async def ask(self, version: str = "1", times: int = 1) -> dict[str, NDArray[Any]]:
        model = await self.asked_for(version)
        answer: dict[str, NDArray[Any]] = {}
        for _ in range(times):
            answer = await self.observed.infer(model, PICTURE)
            await self.shadows()
        return answer

    async def asked_for(self, version: str, capability: str = "upscale.x2") -> ServedModel:
        """A version as `serving` gives it."""
        return replace(await self.observed.model(X2, version), capability=capability)

    async def shadows(self) -> None:
        """Wait for the shadows that run."""
        await asyncio.gather(*self.observed._shadows)

    async def evidence(self) -> Evidence:
        """What was told of the candidate."""
        await self.observed.tell()
        return collected(self.values, self.candidate)


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    await made.observed.drop_shadows()


def brighter(answer: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {"upscaled": answer["upscaled"] + np.uint8(10)}


async def test_without_a_candidate_nothing_is_watched(world: World) -> None:
    await world.ask(times=3)
    assert world.fake.requests == 3
    await world.observed.tell()
    assert not world.values.buckets[ROLLOUTS]


async def test_a_shadow_gets_its_share_and_its_answers_are_compared(world: World) -> None:
    world.fake.answers[X2, "2"] = brighter
    await world.tries(shadow=1)
    answer = await world.ask(times=5)
    assert (answer["upscaled"] == 100).all(), "the caller gets the active version's answer"
    evidence = await world.evidence()
    assert (evidence.requests, evidence.errors, evidence.compared) == (5, 0, 5)
    assert evidence.mean_difference == pytest.approx(10)
    assert evidence.candidate.total == evidence.active.total == 5


async def test_a_share_is_a_share(world: World) -> None:
    await world.tries(shadow=0.2)
    await world.ask(times=300)
    evidence = await world.evidence()
    assert evidence.active.total == 300
    assert 30 <= evidence.requests <= 95


async def test_no_error_of_a_shadow_reaches_the_caller(world: World) -> None:
    def fail(_: Any) -> Any:
        raise JobFailed("inference_refused", "half a model")

    world.fake.answers[X2, "2"] = fail
    await world.tries(shadow=1)
    await world.ask(times=3)
    evidence = await world.evidence()
    assert (evidence.requests, evidence.errors, evidence.last_error) == (3, 3, "half a model")


async def test_an_answer_of_another_form_is_an_error(world: World) -> None:
    world.fake.answers[X2, "2"] = lambda answer: {"upscaled": answer["upscaled"][:, 1:]}
    await world.tries(shadow=1)
    await world.ask()
    evidence = await world.evidence()
    assert evidence.errors == 1
    assert "[1, 15, 16, 3]" in evidence.last_error

    world.fake.answers[X2, "2"] = lambda _: {}
    await world.ask()
    assert (await world.evidence()).errors == 2


@pytest.mark.parametrize(
    ("error", "gone", "errors"),
    [
        (Unavailable("triton", "gone"), True, 0),
        (Unavailable("triton", "its stub process died"), False, 1),
        (OutOfMemory("triton", "no memory"), True, 1),
    ],
)
async def test_a_server_that_is_gone_is_no_fault_of_the_candidate_but_a_crash_is(
    world: World, error: Exception, *, gone: bool, errors: int
) -> None:
    def fail(_: Any) -> Any:
        world.fake.sick = gone
        raise error

    world.fake.answers[X2, "2"] = fail
    await world.tries(shadow=1)
    await world.ask()
    world.fake.sick = False
    assert (await world.evidence()).errors == errors


async def test_answers_that_are_no_numbers_are_an_error(world: World) -> None:
    world.fake.answers[X2, "2"] = lambda answer: {
        "upscaled": np.full(answer["upscaled"].shape, np.nan, np.float32)
    }
    await world.tries(shadow=1)
    await world.ask()
    evidence = await world.evidence()
    assert (evidence.errors, evidence.compared) == (1, 0)
    assert "no numbers" in evidence.last_error


async def test_other_capabilities_of_the_same_model_say_nothing_of_the_candidate(
    world: World,
) -> None:
    await world.tries(shadow=1)
    await world.observed.infer(await world.asked_for("1", f"upscale.{X2}"), PICTURE)
    await world.observed.infer(await world.asked_for("1", ""), PICTURE)
    assert (await world.evidence()).active.total == 0


async def test_a_candidate_that_hangs_is_given_up_and_told_of(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.adapters.observed.LEAST_PATIENCE_S", 0.0)
    plain = world.fake.answer

    async def answer(
        model: ServedModel, inputs: dict[str, NDArray[Any]], priority: int
    ) -> dict[str, NDArray[Any]]:
        if model.version == "2":
            await asyncio.Event().wait()
        return await plain(model, inputs, priority)

    world.fake.answer = answer  # type: ignore[method-assign]
    await world.tries(shadow=1)
    await world.ask()
    assert "no answer within" in (await world.evidence()).last_error
    await world.tries("canary", canary=1)
    asking = asyncio.create_task(world.observed.infer(await world.asked_for("2"), PICTURE))
    await asyncio.sleep(0.01)
    asking.cancel()  # the handler's own deadline
    await asyncio.gather(asking, return_exceptions=True)
    assert (await world.evidence()).errors == 1


async def test_a_caller_never_waits_for_a_shadow_and_shadows_do_not_pile_up(world: World) -> None:
    gate = asyncio.Event()

    class Slow(FakeInference):
        async def answer(
            self, model: ServedModel, inputs: dict[str, NDArray[Any]], priority: int
        ) -> dict[str, NDArray[Any]]:
            if model.version == "2":
                await gate.wait()
            return await super().answer(model, inputs, priority)

    slow = Slow({X2: {"capability": "upscale", **DEFAULT_MODELS[X2]}})
    slow.on_disk[X2] = ("1", "2")
    world.observed = ObservedInference(slow, world.values)
    await world.tries(shadow=1)
    model = await world.asked_for("1")
    for _ in range(10):
        await world.observed.infer(model, PICTURE)
        await asyncio.sleep(0)  # let a shadow begin
    assert len(world.observed._shadows) == SHADOWS_AT_ONCE
    gate.set()
    await world.shadows()
    evidence = await world.evidence()
    assert (evidence.requests, evidence.skipped) == (SHADOWS_AT_ONCE, 10 - SHADOWS_AT_ONCE)


async def test_a_canary_is_timed_and_what_it_fails_is_told(world: World) -> None:
    await world.tries("canary", canary=0.5)
    await world.ask("1", times=2)
    await world.ask("2", times=3)
    two = await world.asked_for("2")
    world.observed.report(two)
    world.observed.report(two)
    world.observed.report(two, "a seam")
    world.observed.report(await world.asked_for("1"), "of no candidate")
    evidence = await world.evidence()
    assert (evidence.requests, evidence.errors, evidence.last_error) == (3, 1, "a seam")
    assert (evidence.candidate.total, evidence.active.total) == (3, 2)
    assert evidence.compared == 0, "a canary is not shadowed"


async def test_evidence_waits_while_nats_is_away_and_is_told_once_it_is_back(
    world: World,
) -> None:
    await world.tries(shadow=1)
    await world.ask(times=2)
    world.values.sick = True
    with pytest.raises(Unavailable):
        await world.observed.tell()
    world.values.sick = False
    assert (await world.evidence()).requests == 2


async def test_stages_have_evidence_of_their_own(world: World) -> None:
    await world.tries(shadow=1)
    await world.ask(times=2)
    await world.observed.tell()
    await world.tries("canary", canary=1)
    world.observed.report(await world.asked_for("2"))
    assert (await world.evidence()).requests == 1
    assert len(world.observed._evidence) == 1, "what ended is forgotten"


async def test_a_shadow_that_outlives_its_stage_stops_no_telling(world: World) -> None:
    gate = asyncio.Event()
    plain = world.fake.answer

    async def answer(
        model: ServedModel, inputs: dict[str, NDArray[Any]], priority: int
    ) -> dict[str, NDArray[Any]]:
        if model.version == "2" and not gate.is_set():
            await gate.wait()
        return await plain(model, inputs, priority)

    world.fake.answer = answer  # type: ignore[method-assign]
    await world.tries(shadow=1)
    await world.observed.infer(await world.asked_for("1"), PICTURE)
    await asyncio.sleep(0)  # the shadow begins
    await world.observed.tell()
    await world.tries("canary", canary=1)
    await world.observed.tell()
    gate.set()
    await world.shadows()
    world.observed.report(await world.asked_for("2"))
    assert (await world.evidence()).requests == 1
