"""Stage, switch, roll back, and what the judge does, over fakes."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import msgspec
import numpy as np
import pytest

from functions._kit.capabilities import serve, serving
from functions._kit.errors import (
    Conflict,
    JobFailed,
    NotFound,
    RequestError,
    Unavailable,
    Unprocessable,
)
from functions._kit.fakes import FakeInference, FakeKeyValue, FakeStream
from functions._kit.fakes.inference import DEFAULT_MODELS
from functions._kit.messages import now
from functions._kit.ports import ServedModel
from functions._kit.rollout.changes import RolloutEvent, Rollouts, in_use
from functions._kit.rollout.evidence import ROLLOUTS, Evidence, evidence_key
from functions._kit.rollout.state import (
    CAPABILITIES,
    MODELS,
    Checked,
    Plan,
    Serving,
    Target,
    checked_key,
    serving_of,
)

X2 = "realesr-animevideov3-x2"
CAPABILITY = "upscale.x2"
ONE, TWO = Target(model=X2, version="1"), Target(model=X2, version="2")
MODEL = {"capability": "upscale", **DEFAULT_MODELS[X2]}


@dataclass
class Trials:
    """Rollouts of an upscaler with two loaded versions, both of them sound."""

    inference: FakeInference = field(default_factory=lambda: FakeInference({X2: MODEL}))
    values: FakeKeyValue = field(default_factory=FakeKeyValue)
    stream: FakeStream = field(default_factory=FakeStream)

    def __post_init__(self) -> None:
        self.inference.on_disk[X2] = ("1", "2")
        self.inference.loaded = {(X2, "1"), (X2, "2")}
        self.rollouts = Rollouts(self.values, self.inference, self.inference, self.stream)

    async def checked(self, target: Target, *problems: str) -> None:
        found = Checked(sha256="s", at=now(), problems=problems)
        await self.values.put(MODELS, checked_key(target), msgspec.json.encode(found))

    async def seen(self, evidence: Evidence) -> None:
        candidate = self.kept.candidate
        assert candidate is not None
        key = evidence_key(candidate, "p")
        await self.values.put(ROLLOUTS, key, msgspec.json.encode(evidence))

    async def judged(self, *, later_s: float = 3600) -> str | None:
        at = now() + timedelta(seconds=later_s)
        return await self.rollouts.proceed(CAPABILITY, self.kept, at=at)

    @property
    def kept(self) -> Serving:
        return serving_of(self.values, CAPABILITY)

    def told(self) -> list[tuple[str, str]]:
        records = self.stream.records("events.models.upscale_x2")
        events = [msgspec.json.decode(record.data, type=RolloutEvent) for record in records]
        return [(event.what, event.target.version) for event in events]


@pytest.fixture
async def trials() -> Trials:
    made = Trials()
    await made.checked(TWO)
    return made


async def refused(kind: type[RequestError], code: str, working: Any) -> RequestError:
    with pytest.raises(kind) as caught:
        await working
    assert caught.value.code == code
    return caught.value


async def test_the_oldest_version_serves_until_another_is_switched_to(trials: Trials) -> None:
    assert (await serving(CAPABILITY, trials.inference, trials.values)).version == "1"
    await trials.rollouts.switch(CAPABILITY, TWO)
    assert (await serving(CAPABILITY, trials.inference, trials.values)).version == "2"
    assert (trials.kept.active, trials.kept.previous) == (TWO, ONE)
    assert trials.told() == [("switched", "2")]


async def test_a_rollback_goes_to_what_served_before_and_back_again(trials: Trials) -> None:
    await trials.rollouts.switch(CAPABILITY, TWO)
    await trials.rollouts.roll_back(CAPABILITY)
    assert (trials.kept.active, trials.kept.previous) == (ONE, TWO)
    await trials.rollouts.roll_back(CAPABILITY)
    assert trials.kept.active == TWO
    assert [what for what, _ in trials.told()] == ["switched", "rolled_back", "rolled_back"]


async def test_there_must_be_something_to_roll_back(trials: Trials) -> None:
    await refused(Conflict, "nothing_to_roll_back", trials.rollouts.roll_back(CAPABILITY))


async def test_what_was_not_checked_or_failed_may_not_serve(trials: Trials) -> None:
    trials.inference.on_disk[X2] = ("1", "2", "3")
    await trials.inference.load(X2)
    three = Target(model=X2, version="3")
    for change in (trials.rollouts.switch, lambda c, t: trials.rollouts.stage(c, t, Plan())):
        error = await refused(Conflict, "model_not_checked", change(CAPABILITY, three))
        assert f"nereid models check {X2} 3" in error.message
    await trials.checked(three, "it is slow")
    error = await refused(Conflict, "model_not_checked", trials.rollouts.switch(CAPABILITY, three))
    assert "it is slow" in error.message
    assert trials.kept == Serving()


async def test_what_is_not_loaded_may_not_serve(trials: Trials) -> None:
    three = Target(model=X2, version="3")
    await trials.checked(three)
    await refused(Conflict, "model_not_loaded", trials.rollouts.switch(CAPABILITY, three))
    nobody = Target(model="nobody", version="1")
    await refused(NotFound, "model_not_found", trials.rollouts.switch(CAPABILITY, nobody))


@pytest.mark.parametrize("capability", ["paint", "upscale", "upscale.a b", "upscale.>", ""])
async def test_an_unknown_capability_is_refused(trials: Trials, capability: str) -> None:
    error = await refused(
        Unprocessable, "unknown_capability", trials.rollouts.switch(capability, TWO)
    )
    assert error.field == "capability"


async def test_a_model_must_fit_the_capability(trials: Trials) -> None:
    trials.inference._models["realesr-animevideov3-x3"] = MODEL
    await refused(
        Unprocessable, "model_contract", trials.rollouts.switch("upscale.x3", TWO)
    )  # it enlarges by 2


async def test_going_back_to_what_has_served_needs_no_check(trials: Trials) -> None:
    await trials.rollouts.switch(CAPABILITY, TWO)
    await trials.rollouts.switch(CAPABILITY, ONE)
    assert trials.kept.active == ONE


async def test_a_rollout_goes_from_shadow_to_canary_to_all(trials: Trials) -> None:
    await trials.rollouts.stage(CAPABILITY, TWO, Plan(requests=20))
    assert trials.kept.active == ONE
    assert await trials.judged() is None
    await trials.seen(Evidence(requests=20, compared=20))
    assert await trials.judged() == "canary"
    assert await trials.judged() is None, "what the shadow has shown is no canary"
    await trials.seen(Evidence(requests=20))
    assert await trials.judged() == "promoted"
    assert (trials.kept.active, trials.kept.previous, trials.kept.candidate) == (TWO, ONE, None)
    assert [what for what, _ in trials.told()] == ["staged", "canary", "promoted"]


async def test_shares_of_0_leave_a_stage_out(trials: Trials) -> None:
    await trials.rollouts.stage(CAPABILITY, TWO, Plan(shadow=0, requests=1))
    assert trials.kept.candidate
    assert trials.kept.candidate.stage == "canary"
    await trials.rollouts.roll_back(CAPABILITY)
    await trials.rollouts.stage(CAPABILITY, TWO, Plan(canary=0, requests=1))
    await trials.seen(Evidence(requests=1, compared=1))
    assert await trials.judged() == "promoted"
    empty = trials.rollouts.stage(CAPABILITY, ONE, Plan(shadow=0, canary=0))
    await refused(Unprocessable, "invalid_plan", empty)


async def test_a_bad_candidate_goes_back_by_itself_and_the_reason_is_kept(trials: Trials) -> None:
    await trials.rollouts.stage(CAPABILITY, TWO, Plan())
    await trials.seen(Evidence(requests=20, compared=20, difference=20 * 99))
    assert await trials.judged(later_s=0) == "rolled_back"
    assert (trials.kept.active, trials.kept.candidate) == (ONE, None)
    assert trials.kept.outcome
    assert trials.kept.outcome.what == "rolled_back"
    assert "its answers differed by 99" in trials.kept.outcome.why


async def test_one_rollout_of_a_capability_at_a_time(trials: Trials) -> None:
    await trials.rollouts.stage(CAPABILITY, TWO, Plan())
    again = trials.rollouts.stage(CAPABILITY, TWO, Plan())
    await refused(Conflict, "rollout_running", again)
    await trials.rollouts.roll_back(CAPABILITY)
    assert trials.kept.candidate is None
    assert trials.told()[-1] == ("abandoned", "2")
    await refused(Conflict, "already_active", trials.rollouts.stage(CAPABILITY, ONE, Plan()))


async def test_a_model_of_other_requests_cannot_be_shadowed(trials: Trials) -> None:
    other = Target(model="realesr-animevideov3-x4", version="1")
    trials.inference._models[other.model] = {**MODEL, "scale": "4"}
    await trials.inference.load(other.model)
    await trials.checked(other)
    capability = f"upscale.{X2}"
    staging = trials.rollouts.stage(capability, other, Plan())
    error = await refused(Unprocessable, "cannot_be_shadowed", staging)
    assert "scale" in error.message
    await trials.rollouts.stage(capability, other, Plan(shadow=0))


async def test_a_verdict_over_a_candidate_that_is_gone_is_void(trials: Trials) -> None:
    await trials.rollouts.stage(CAPABILITY, TWO, Plan(requests=1))
    before = trials.kept
    await trials.seen(Evidence(requests=1, compared=1))
    await trials.rollouts.switch(CAPABILITY, TWO)
    late = trials.rollouts.proceed(CAPABILITY, before, at=now() + timedelta(hours=1))
    await refused(Conflict, "changed_meanwhile", late)
    assert trials.kept.previous == ONE


async def test_a_canary_does_its_share_of_the_jobs_each_one_whole(trials: Trials) -> None:
    await trials.rollouts.stage(CAPABILITY, TWO, Plan(shadow=0, canary=0.25))

    async def version(model: ServedModel) -> str:
        return model.version

    async def of(unit: str) -> str:
        return await serve(CAPABILITY, trials.inference, trials.values, version, unit=unit)

    chosen = [await of(f"task-{number}") for number in range(1000)]
    assert 180 < chosen.count("2") < 320
    assert chosen == [await of(f"task-{number}") for number in range(1000)]


async def test_a_job_that_the_candidate_fails_is_done_by_the_active_version(
    trials: Trials,
) -> None:
    await trials.rollouts.stage(CAPABILITY, TWO, Plan(shadow=0, canary=1))

    def fail(_: Any) -> Any:
        raise JobFailed("inference_refused", "it has no idea")

    trials.inference.answers[X2, "2"] = fail

    async def enlarge(model: ServedModel) -> str:
        await trials.inference.infer(model, {"image": np.zeros((1, 4, 4, 3), np.uint8)})
        return model.version

    assert await serve(CAPABILITY, trials.inference, trials.values, enlarge, unit="a") == "1"
    ((model, problem),) = trials.inference.reports
    assert (model.version, problem) == ("2", "it has no idea")
    assert model.capability == CAPABILITY


@pytest.mark.parametrize("error", [KeyError("upscaled"), JobFailed("a_seam", "there is a seam")])
async def test_whatever_a_candidates_answer_leads_to_is_its_failure(
    trials: Trials, error: Exception
) -> None:
    await trials.rollouts.stage(CAPABILITY, TWO, Plan(shadow=0, canary=1))

    async def work(model: ServedModel) -> str:
        if model.version == "2":
            raise error
        return model.version

    assert await serve(CAPABILITY, trials.inference, trials.values, work, unit="a") == "1"
    ((_, problem),) = trials.inference.reports
    assert problem
    assert "upscaled" in problem or "seam" in problem


async def test_a_job_that_nobody_can_do_is_no_failure_of_the_candidate(trials: Trials) -> None:
    await trials.rollouts.stage(CAPABILITY, TWO, Plan(shadow=0, canary=1))

    async def work(model: ServedModel) -> str:
        raise JobFailed("undecodable", "no picture")

    with pytest.raises(JobFailed):
        await serve(CAPABILITY, trials.inference, trials.values, work, unit="a")
    assert trials.inference.reports == []


async def test_a_triton_that_was_away_is_no_failure_of_the_candidate(trials: Trials) -> None:
    await trials.rollouts.stage(CAPABILITY, TWO, Plan(shadow=0, canary=1))

    async def work(model: ServedModel) -> str:
        if model.version == "2":
            raise Unavailable("triton", "it starts")
        return model.version

    assert await serve(CAPABILITY, trials.inference, trials.values, work, unit="a") == "1"
    assert trials.inference.reports == []


async def test_a_job_that_the_candidate_does_is_counted(trials: Trials) -> None:
    await trials.rollouts.stage(CAPABILITY, TWO, Plan(shadow=0, canary=1))

    async def work(model: ServedModel) -> str:
        return model.version

    assert await serve(CAPABILITY, trials.inference, trials.values, work, unit="a") == "2"
    ((model, problem),) = trials.inference.reports
    assert (model.version, problem) == ("2", None)


@pytest.mark.parametrize(
    "plan", [Plan(hold_s=1e9), Plan(max_latency_ratio=float("inf")), Plan(requests=0)]
)
async def test_a_plan_that_nobody_could_read_is_refused(trials: Trials, plan: Plan) -> None:
    await refused(Unprocessable, "invalid_plan", trials.rollouts.stage(CAPABILITY, TWO, plan))
    assert trials.kept == Serving()


async def test_a_stale_copy_undoes_no_switch(trials: Trials) -> None:
    three = Target(model=X2, version="3")
    trials.inference.on_disk[X2] = ("1", "2", "3")
    await trials.inference.load(X2)
    await trials.checked(three)
    await trials.rollouts.switch(CAPABILITY, TWO)
    stale = Serving(active=ONE)
    trials.values.seen = lambda _: {CAPABILITY: msgspec.json.encode(stale)}  # type: ignore[method-assign,assignment]
    serving = await trials.rollouts.stage(CAPABILITY, three, Plan())
    assert serving.active == TWO


async def test_a_switch_amid_a_rollout_ends_it_for_whoever_watches(trials: Trials) -> None:
    await trials.rollouts.stage(CAPABILITY, TWO, Plan())
    await trials.rollouts.switch(CAPABILITY, TWO)
    assert [what for what, _ in trials.told()] == ["staged", "abandoned", "switched"]


async def test_a_candidate_that_triton_has_lost_harms_no_job(trials: Trials) -> None:
    await trials.rollouts.stage(CAPABILITY, TWO, Plan(shadow=0, canary=1))
    trials.inference.on_disk[X2] = ("1",)
    await trials.inference.load(X2)

    async def version(model: ServedModel) -> str:
        return model.version

    assert await serve(CAPABILITY, trials.inference, trials.values, version, unit="a") == "1"
    assert len(trials.inference.reports) == 1


async def test_what_serves_or_may_serve_is_in_use(trials: Trials) -> None:
    assert in_use(trials.values, ONE) is None
    await trials.rollouts.stage(CAPABILITY, TWO, Plan())
    assert in_use(trials.values, TWO) == "is on its way to upscale.x2"
    assert in_use(trials.values, ONE) == "serves upscale.x2"
    await trials.rollouts.switch(CAPABILITY, TWO)
    assert in_use(trials.values, ONE) == "is what upscale.x2 would be rolled back to"


async def test_a_value_that_cannot_be_read_leaves_the_default(trials: Trials) -> None:
    await trials.values.put(CAPABILITIES, CAPABILITY, b"nonsense")
    assert (await serving(CAPABILITY, trials.inference, trials.values)).version == "1"
    await trials.rollouts.switch(CAPABILITY, TWO)
    assert trials.kept.active == TWO
