"""GET /api/models/available: capabilities, models, versions, states and statistics."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Literal

from litestar import get

from functions._kit.capabilities import DEFAULT_MODELS, default_model
from functions._kit.http import Port
from functions._kit.messages import Answer
from functions._kit.policy import HttpPolicy
from functions._kit.ports import (
    Inference,
    KeyValue,
    ModelServer,
    ModelVersion,
    VersionState,
    VersionStatistics,
)
from functions._kit.rollout.evidence import EvidenceSummary, collected, summary
from functions._kit.rollout.state import (
    MODELS,
    Candidate,
    Outcome,
    Plan,
    Serving,
    Target,
    all_serving,
    last_check,
)

PATHS = ["/api/models/available", "/api/v1/models/available"]


class Trial(Answer, frozen=True, kw_only=True):
    """A version that is tried on real requests, and what was seen of it so far."""

    target: Target
    stage: Literal["shadow", "canary"]
    since: datetime
    plan: Plan
    evidence: EvidenceSummary
    """Of this stage."""


class Capability(Answer, frozen=True, kw_only=True):
    """What serves a capability."""

    capability: str
    active: Target
    previous: Target | None
    """What a rollback goes back to."""
    candidate: Trial | None
    outcome: Outcome | None
    """How the last change ended."""


class Statistics(Answer, frozen=True, kw_only=True):
    """What a version has done since it was loaded, by Triton's own count; times in seconds."""

    requests: int
    failures: int
    average_batch: float
    average_queue_time: float
    average_compute_time: float


class Version(Answer, frozen=True, kw_only=True):
    """One version of a model."""

    version: str
    state: VersionState
    reason: str
    """Why it is unavailable, in Triton's own words."""
    serves: list[str]
    """Capabilities of which it is the active version."""
    sha256: str | None
    """Of its content; None where it was never checked."""
    checked: Literal["passed", "failed", "never"]
    problems: list[str]
    """What the last check has found wrong."""
    statistics: Statistics | None
    """None where it is not loaded."""


class Model(Answer, frozen=True, kw_only=True):
    """A model of the repository; `versions` is empty where none was ever loaded."""

    model: str
    versions: list[Version]


class Available(Answer, frozen=True, kw_only=True):
    """Everything that serves or could."""

    capabilities: list[Capability]
    models: list[Model]


@get(
    PATHS,
    summary="Capabilities, models and versions",
    opt={"policy": HttpPolicy(scope="models:read")},
)
async def available(
    inference: Port[Inference], model_server: Port[ModelServer], values: Port[KeyValue]
) -> Available:
    """What serves each capability, what is on its way to, and what every version does."""
    return await available_now(inference, model_server, values)


async def available_now(
    inference: Inference, model_server: ModelServer, values: KeyValue
) -> Available:
    """The same for whoever has the ports."""
    versions, statistics = await asyncio.gather(model_server.versions(), model_server.statistics())
    versions += _only_checked(versions, values)
    names = await inference.model_names()
    kept = dict(all_serving(values))
    shown = [name for name in DEFAULT_MODELS if name not in kept and DEFAULT_MODELS[name] in names]
    capabilities = [
        _capability(name, kept.get(name, Serving()), versions, values)
        for name in sorted({*shown, *kept})
    ]
    return Available(
        capabilities=capabilities,
        models=[
            Model(
                model=name,
                versions=[
                    _version(found, capabilities, statistics, values)
                    for found in versions
                    if found.model == name and found.version
                ],
            )
            for name in sorted(names)
        ],
    )


def _only_checked(versions: list[ModelVersion], values: KeyValue) -> list[ModelVersion]:
    """Versions that were checked and never loaded: Triton knows nothing of them."""
    known = {(found.model, found.version) for found in versions}
    checked = (key.rpartition("/") for key in sorted(values.seen(MODELS)))
    return [
        ModelVersion(model, version, "unloaded")
        for model, _, version in checked
        if (model, version) not in known
    ]


def _capability(
    name: str, kept: Serving, versions: list[ModelVersion], values: KeyValue
) -> Capability:
    return Capability(
        capability=name,
        active=kept.active or _default(name, versions),
        previous=kept.previous,
        candidate=None if kept.candidate is None else _trial(kept.candidate, values),
        outcome=kept.outcome,
    )


def _trial(candidate: Candidate, values: KeyValue) -> Trial:
    return Trial(
        target=candidate.target,
        stage=candidate.stage,
        since=candidate.since,
        plan=candidate.plan,
        evidence=summary(collected(values, candidate)),
    )


def _default(capability: str, versions: list[ModelVersion]) -> Target:
    """The oldest loaded version of the default model, as `Inference.model` has it; else its 1."""
    model = default_model(capability)
    ready = [v.version for v in versions if v.model == model and v.state == "ready"]
    return Target(model=model, version=min(ready, key=int, default="1"))


def _version(
    found: ModelVersion,
    capabilities: list[Capability],
    statistics: dict[tuple[str, str], VersionStatistics],
    values: KeyValue,
) -> Version:
    target = Target(model=found.model, version=found.version)
    check = last_check(values, target)
    done = statistics.get((found.model, found.version))
    return Version(
        version=found.version,
        state=found.state,
        reason=found.reason,
        serves=[one.capability for one in capabilities if one.active == target],
        sha256=None if check is None else check.sha256,
        checked="never" if check is None else "passed" if check.passed else "failed",
        problems=[] if check is None else list(check.problems),
        statistics=None if done is None or found.state != "ready" else _statistics(done),
    )


def _statistics(done: VersionStatistics) -> Statistics:
    def mean(total: float) -> float:
        return round(total / done.requests, 6) if done.requests else 0.0

    return Statistics(
        requests=done.requests,
        failures=done.failures,
        average_batch=round(done.requests / done.executions, 3) if done.executions else 0.0,
        average_queue_time=mean(done.queue_s),
        average_compute_time=mean(done.compute_s),
    )
