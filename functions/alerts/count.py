"""events.counts and GET /api/v1/cameras/{camera_id}/counts: what made no alert is a number."""

from __future__ import annotations

from datetime import datetime, timedelta

from litestar import get
from litestar.params import FromPath

from functions._kit.consume import consume
from functions._kit.http import Port, check_offset
from functions._kit.messages import Answer, now
from functions._kit.policy import HttpPolicy, Policy
from functions._kit.ports import AlertStore
from functions.alerts._cameras import valid_camera_id
from functions.alerts._view import Since, Until
from functions.alerts.contracts import COUNTS_SUBJECT, CountsEvent


class CameraHour(Answer, frozen=True, kw_only=True):
    """What has happened to a camera's frames in the hour that begins at `hour` (UTC).

    `frames` were looked at, `shed` were not; `ignored.<label>` no rule made an alert,
    `cooled.<label>` came within a cooldown.
    """

    hour: datetime
    counts: dict[str, int]


class CameraCounts(Answer, frozen=True, kw_only=True):
    """The hours in which something has happened, oldest first."""

    items: list[CameraHour]


@consume(COUNTS_SUBJECT, policy=Policy(batch=100, attempts=5, timeout_s=60.0))
async def count(events: list[CountsEvent], alert_store: AlertStore) -> None:
    """Take the newest sums over; repeating changes nothing."""
    await alert_store.record_counts([counts for event in events for counts in event.counts])


@get(
    "/api/v1/cameras/{camera_id:str}/counts",
    summary="A camera's frames and what made no alert, by hour",
    opt={"policy": HttpPolicy(scope="alerts:read", concurrency=16)},
)
async def camera_counts(
    camera_id: FromPath[str],
    alert_store: Port[AlertStore],
    since: Since = None,
    until: Until = None,
) -> CameraCounts:
    """The last 24 hours unless `from` and `to` say otherwise; seconds behind the frames."""
    check_offset("from", since)
    check_offset("to", until)
    until = until or now() + timedelta(hours=1)
    since = since or until - timedelta(hours=25)
    hours = await alert_store.camera_counts(valid_camera_id(camera_id), since=since, until=until)
    return CameraCounts(
        items=[CameraHour(hour=hour, counts=counts) for hour, counts in sorted(hours.items())]
    )
