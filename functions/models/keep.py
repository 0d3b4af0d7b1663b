"""By the clock: what should serve is compared with what Triton has loaded, and loaded again."""

from __future__ import annotations

import logging

from functions._kit.consume import Tick, consume
from functions._kit.errors import JobFailed
from functions._kit.policy import Policy
from functions._kit.ports import KeyValue, ModelServer
from functions._kit.rollout.state import Target, all_serving

log = logging.getLogger(__name__)


@consume("jobs.models.keep", policy=Policy(every_s=5.0, timeout_s=300.0))
async def keep(tick: Tick, values: KeyValue, model_server: ModelServer) -> None:
    """Load every model of which a version is missing: after a restart of Triton that is all.

    One that cannot be loaded is told in the log and by `models/available`, and tried again.
    """
    del tick  # whenever it comes
    wanted = wanted_targets(values)
    if not wanted:
        return
    missing = wanted - await _there(model_server)
    if not missing:
        return
    for model in sorted({target.model for target in missing}):
        try:
            await model_server.load(model)
        except JobFailed as error:
            log.warning("what should serve is not loaded: %s", error.message)
    there = await _there(model_server)
    for target in sorted(missing, key=str):
        said = "is again" if target in there else "the model's config.pbtxt does not name it"
        log.warning("%s was not loaded: %s", target, said)


async def _there(model_server: ModelServer) -> set[Target]:
    return {
        Target(model=found.model, version=found.version)
        for found in await model_server.versions()
        if found.state in {"ready", "loading"}
    }


def wanted_targets(values: KeyValue) -> set[Target]:
    """What serves, would be gone back to, or is tried, of every capability that was touched."""
    wanted: set[Target] = set()
    for _, kept in all_serving(values):
        candidate = kept.candidate and kept.candidate.target
        wanted |= {target for target in (kept.active, kept.previous, candidate) if target}
    return wanted
