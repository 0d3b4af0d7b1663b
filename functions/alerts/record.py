"""events.alert.>: alerts go into the database, many in one statement."""

from __future__ import annotations

from functions._kit.consume import consume
from functions._kit.policy import Policy
from functions._kit.ports import AlertStore
from functions.alerts.contracts import Alert


@consume("events.alert.>", policy=Policy(batch=100, linger_s=0.5, attempts=5, timeout_s=60.0))
async def record(alerts: list[Alert], alert_store: AlertStore) -> None:
    """Write up to 100, or what came within half a second; acknowledged after the commit.

    A subscriber has an alert at once; a query may wait that long, which lets the table take one
    statement a batch instead of one an alert. The fact that an image has been kept comes this
    way too, and mostly within the same batch.
    """
    await alert_store.record(alerts)
