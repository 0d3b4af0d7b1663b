"""POST /api/models/switch: another version serves a capability, at once and in every process."""

from __future__ import annotations

from litestar import post

from functions._kit.http import Port, Principal
from functions._kit.policy import HttpPolicy
from functions._kit.rollout.changes import Rollouts
from functions._kit.rollout.state import Target
from functions.models.contracts import (
    ROLLOUTS,
    CapabilityName,
    Changed,
    ModelName,
    VersionNumber,
    changed,
)


@post(
    ["/api/models/switch", "/api/v1/models/switch"],
    status_code=200,
    summary="Let another version serve a capability",
    dependencies=ROLLOUTS,
    opt={"policy": HttpPolicy(scope="models:write")},
)
async def switch(
    capability: CapabilityName,
    model: ModelName,
    version: VersionNumber,
    principal: Port[Principal],
    rollouts: Port[Rollouts],
) -> Changed:
    """Refused unless the version is loaded, warmed, and has passed its check."""
    target = Target(model=model, version=version)
    serving = await rollouts.switch(capability, target, why=f"by {principal.client_id}")
    return changed(capability, serving)
