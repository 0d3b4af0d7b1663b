"""jobs.alerts.retain: alerts and their pictures go when their camera's time is over."""

from __future__ import annotations

from datetime import timedelta

from functions._kit.consume import Tick, consume
from functions._kit.policy import Policy
from functions._kit.ports import AlertStore, KeyValue, Objects
from functions.alerts._cameras import rules_of

STEP = 500
"""Alerts in one transaction: some milliseconds, in which others hardly wait."""


@consume(
    "jobs.alerts.retain",
    policy=Policy(every_s=60.0, timeout_s=600.0, attempts=3),
)
async def retain(tick: Tick, alert_store: AlertStore, objects: Objects, values: KeyValue) -> None:
    """Remove what is too old, in small steps: rows first, then the pictures they pointed at."""
    for camera_id in await alert_store.cameras():
        before = tick.at - timedelta(days=rules_of(values, camera_id).retention_days)
        while await alert_store.expire(camera_id, before=before, limit=STEP) == STEP:
            await remove_discarded(alert_store, objects)
    while await remove_discarded(alert_store, objects):
        continue


async def remove_discarded(alert_store: AlertStore, objects: Objects) -> int:
    """Remove some pictures whose alert is gone; return how many."""
    keys = await alert_store.discarded(STEP)
    if keys:
        await objects.delete(keys)
        await alert_store.forget(keys)
    return len(keys)
