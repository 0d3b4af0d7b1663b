"""events.counts: what made no alert goes into the database as a number."""

from __future__ import annotations

from functions._kit.consume import consume
from functions._kit.policy import Policy
from functions._kit.ports import AlertStore
from functions.alerts.contracts import COUNTS_SUBJECT, CountsEvent


@consume(COUNTS_SUBJECT, policy=Policy(batch=100, attempts=5, timeout_s=60.0))
async def count(events: list[CountsEvent], alert_store: AlertStore) -> None:
    """Take the newest sums over; repeating changes nothing."""
    await alert_store.record_counts([counts for event in events for counts in event.counts])
