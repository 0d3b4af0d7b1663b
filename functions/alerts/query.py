"""GET and PATCH /api/v1/alerts: what the cameras have seen."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Annotated

from litestar import get, patch
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter

from functions._kit.http import Port, check_offset
from functions._kit.messages import Answer, Request
from functions._kit.policy import HttpPolicy
from functions._kit.ports import AlertFilter, AlertStore, Limits, Objects
from functions.alerts._view import (
    AlertView,
    Since,
    Until,
    alert_not_found,
    valid_alert_id,
    view,
)

PATH = "/api/v1/alerts"

Text = Annotated[str | None, QueryParameter(max_length=100)]
Score = Annotated[float | None, QueryParameter(ge=0, le=1)]


class Alerts(Answer, frozen=True, kw_only=True):
    """Alerts, newest first, and the cursor that the next page begins after."""

    items: list[AlertView]
    next_cursor: str | None


class AlertCount(Answer, frozen=True, kw_only=True):
    """How many alerts were captured in the hour that begins at `hour` (UTC)."""

    hour: datetime
    camera_id: str
    label: str
    count: int


class AlertCounts(Answer, frozen=True, kw_only=True):
    """Counts that are not zero, by hour, camera and label."""

    items: list[AlertCount]


class Review(Request, frozen=True, kw_only=True):
    """What a reader may change of an alert."""

    reviewed: bool


@get(PATH, summary="Alerts, newest first", opt={"policy": HttpPolicy(scope="alerts:read")})
async def list_alerts(
    alert_store: Port[AlertStore],
    objects: Port[Objects],
    limits: Port[Limits],
    camera_id: Text = None,
    label: Text = None,
    min_score: Score = None,
    since: Since = None,
    until: Until = None,
    reviewed: FromQuery[bool | None] = None,
    cursor: Annotated[str | None, QueryParameter(max_length=200)] = None,
    limit: Annotated[int, QueryParameter(ge=1, le=200)] = 50,
) -> Alerts:
    """One page by the time of capture. Pages show each alert once, whatever comes meanwhile."""
    wanted = _filter(
        camera_id=camera_id,
        label=label,
        min_score=min_score,
        since=since,
        until=until,
        reviewed=reviewed,
    )
    page = await alert_store.page(wanted, cursor=cursor, limit=limit)
    lifetime_s = limits.url_lifetime_s
    items = await asyncio.gather(
        *(view(row.alert, objects, lifetime_s, reviewed=row.reviewed) for row in page.rows)
    )
    return Alerts(items=items, next_cursor=page.next_cursor)


@get(
    PATH + "/counts",
    summary="Alerts counted by hour, camera and label",
    opt={"policy": HttpPolicy(scope="alerts:read", concurrency=16)},
)
async def count_alerts(
    alert_store: Port[AlertStore],
    camera_id: Text = None,
    label: Text = None,
    min_score: Score = None,
    since: Since = None,
    until: Until = None,
) -> AlertCounts:
    """For charts. Without `from` and `to`, the whole of what is kept is counted."""
    wanted = _filter(
        camera_id=camera_id, label=label, min_score=min_score, since=since, until=until
    )
    counts = await alert_store.counts(wanted)
    return AlertCounts(
        items=[
            AlertCount(hour=c.hour, camera_id=c.camera_id, label=c.label, count=c.count)
            for c in counts
        ]
    )


@get(
    PATH + "/{alert_id:str}",
    summary="One alert",
    opt={"policy": HttpPolicy(scope="alerts:read")},
)
async def get_alert(
    alert_id: FromPath[str],
    alert_store: Port[AlertStore],
    objects: Port[Objects],
    limits: Port[Limits],
) -> AlertView:
    """The alert, with a URL of its picture that holds for a day."""
    row = await alert_store.get(valid_alert_id(alert_id))
    if row is None:
        raise alert_not_found(alert_id)
    return await view(row.alert, objects, limits.url_lifetime_s, reviewed=row.reviewed, look=True)


@patch(
    PATH + "/{alert_id:str}",
    summary="Mark an alert as reviewed, or not",
    opt={"policy": HttpPolicy(scope="alerts:read")},  # the mark is its reader's
)
async def review_alert(
    alert_id: FromPath[str],
    data: JSONBody[Review],
    alert_store: Port[AlertStore],
    objects: Port[Objects],
    limits: Port[Limits],
) -> AlertView:
    """The alert as it is then."""
    row = await alert_store.review(valid_alert_id(alert_id), reviewed=data.reviewed)
    if row is None:
        raise alert_not_found(alert_id)
    return await view(row.alert, objects, limits.url_lifetime_s, reviewed=row.reviewed, look=True)


def _filter(
    *,
    camera_id: str | None,
    label: str | None,
    min_score: float | None,
    since: datetime | None,
    until: datetime | None,
    reviewed: bool | None = None,
) -> AlertFilter:
    check_offset("from", since)
    check_offset("to", until)
    return AlertFilter(
        camera_id=camera_id,
        label=label,
        min_score=min_score,
        since=since,
        until=until,
        reviewed=reviewed,
    )
