"""POST /api/models/stage: a version is tried on a share of the real requests."""

from __future__ import annotations

from typing import Annotated

import msgspec
from litestar import post
from litestar.params import JSONBody
from msgspec import Meta

from functions._kit.http import Port
from functions._kit.messages import Request
from functions._kit.policy import HttpPolicy
from functions._kit.rollout.changes import Rollouts
from functions._kit.rollout.state import Plan, Share, Target
from functions.models.contracts import ROLLOUTS, Changed, changed

DEFAULT = Plan()


class StageRequest(Request, frozen=True, kw_only=True):
    """What is tried, on how much, for how long, and what ends the trial: see `Plan`."""

    capability: Annotated[str, Meta(min_length=1, max_length=200)]
    model: Annotated[str, Meta(min_length=1, max_length=200)]
    version: Annotated[str, Meta(pattern=r"^[1-9]\d{0,17}$")]
    shadow: Share = DEFAULT.shadow
    canary: Share = DEFAULT.canary
    requests: Annotated[int, Meta(ge=1, le=1_000_000)] = DEFAULT.requests
    hold_s: Annotated[float, Meta(ge=0, le=604_800)] = DEFAULT.hold_s
    max_error_rate: Share = DEFAULT.max_error_rate
    max_latency_ratio: Annotated[float, Meta(gt=0)] = DEFAULT.max_latency_ratio
    max_difference: Annotated[float, Meta(ge=0)] | None = None


@post(
    ["/api/models/stage", "/api/v1/models/stage"],
    status_code=200,
    summary="Try a version on real requests",
    dependencies=ROLLOUTS,
    opt={"policy": HttpPolicy(scope="models:write")},
)
async def stage(
    data: JSONBody[StageRequest],
    rollouts: Port[Rollouts],
) -> Changed:
    """First as a shadow, then as a canary, then for all; beyond a limit it goes back by itself."""
    fields = msgspec.structs.asdict(data)
    capability = fields.pop("capability")
    target = Target(model=fields.pop("model"), version=fields.pop("version"))
    return changed(capability, await rollouts.stage(capability, target, Plan(**fields)))
