"""By the clock: candidates go on, or back, by what was seen of them."""

from __future__ import annotations

import logging

from functions._kit.consume import Tick, consume
from functions._kit.errors import Conflict
from functions._kit.policy import Policy
from functions._kit.ports import Inference, KeyValue, ModelServer, Stream
from functions._kit.rollout.changes import Rollouts
from functions._kit.rollout.state import all_serving

log = logging.getLogger(__name__)


@consume("jobs.models.promote", policy=Policy(every_s=2.0, timeout_s=30.0))
async def promote(
    tick: Tick,
    values: KeyValue,
    inference: Inference,
    model_server: ModelServer,
    stream: Stream,
) -> None:
    """Judge every candidate. What somebody else has changed at this moment is left to them."""
    rollouts = Rollouts(values, inference, model_server, stream)
    for capability, kept in all_serving(values):
        if kept.candidate is None:
            continue
        try:
            done = await rollouts.proceed(capability, kept, at=tick.at)
        except Conflict as error:
            log.info("%s: %s", capability, error.message)
        else:
            if done is not None:
                log.warning("%s: %s: %s", capability, kept.candidate.target, done)
