"""jobs.alerts.discard: frames that nobody needs any more are removed, many at once."""

from __future__ import annotations

from functions._kit.consume import consume
from functions._kit.policy import Policy
from functions._kit.ports import Objects
from functions.alerts.contracts import DISCARD_SUBJECT, DiscardJob


@consume(
    DISCARD_SUBJECT,
    policy=Policy(batch=100, linger_s=1.0, timeout_s=60.0, attempts=3, backoff_s=(1.0, 4.0)),
)
async def discard(jobs: list[DiscardJob], objects: Objects) -> None:
    """Three tries; then the sweeper takes over."""
    await objects.delete(sorted({key for job in jobs for key in job.keys}))
