"""POST /api/models/rollback: give up what is being tried, or go back to what served before."""

from __future__ import annotations

from litestar import post

from functions._kit.http import Port, Principal
from functions._kit.policy import HttpPolicy
from functions._kit.rollout.changes import Rollouts
from functions.models.contracts import ROLLOUTS, CapabilityName, Changed, changed


@post(
    ["/api/models/rollback", "/api/v1/models/rollback"],
    status_code=200,
    summary="Go back to what served before",
    dependencies=ROLLOUTS,
    opt={"policy": HttpPolicy(scope="models:write")},
)
async def rollback(
    capability: CapabilityName,
    principal: Port[Principal],
    rollouts: Port[Rollouts],
) -> Changed:
    """A candidate is given up first; without one, the previous version serves again."""
    serving = await rollouts.roll_back(capability, why=f"by {principal.client_id}")
    return changed(capability, serving)
