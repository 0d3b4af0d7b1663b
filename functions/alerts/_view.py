"""How an alert looks from outside."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Annotated

from litestar.params import QueryParameter

from functions._kit.damage import Damage, damage_of
from functions._kit.errors import NotFound
from functions._kit.messages import Answer
from functions._kit.ports import Objects
from functions.alerts.contracts import Alert, Box

Since = Annotated[datetime | None, QueryParameter(name="from")]
Until = Annotated[datetime | None, QueryParameter(name="to")]


class AlertView(Answer, frozen=True, kw_only=True):
    """An alert as its reader sees it. `image_url` is null until the picture has been kept.

    Where one alert is asked for whose picture was damaged since, `image_error` says so instead.
    """

    alert_id: str
    camera_id: str
    label: str
    score: float
    box: Box
    zone: str | None
    captured_at: datetime
    created_at: datetime
    image_url: str | None
    image_error: Damage | None
    reviewed: bool
    model: str
    model_version: str


async def view(
    alert: Alert,
    objects: Objects,
    lifetime_s: int,
    *,
    reviewed: bool = False,
    look: bool = False,
) -> AlertView:
    """`alert` with a URL made now that holds for `lifetime_s` seconds.

    `look` asks the store whether the picture is whole: a request, too much for a page of alerts.
    """
    url = error = None
    if alert.image_key is not None and look:
        error = await damage_of(objects, alert.image_key, alert.frame_bytes)
    if alert.image_key is not None and error is None:
        url = await objects.presign(alert.image_key, expires_s=lifetime_s)
    return AlertView(
        alert_id=alert.alert_id,
        camera_id=alert.camera_id,
        label=alert.label,
        score=alert.score,
        box=alert.box,
        zone=alert.zone,
        captured_at=alert.captured_at,
        created_at=alert.created_at,
        image_url=url,
        image_error=error,
        reviewed=reviewed,
        model=alert.model,
        model_version=alert.model_version,
    )


def valid_alert_id(text: str) -> str:
    """`text` as an alert's id. Raises `NotFound`, like an id that never was."""
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise alert_not_found(text) from None


def alert_not_found(text: str) -> NotFound:
    """The error for an id without an alert."""
    return NotFound("alert_not_found", f"no alert {text[:64]!r}", field="alert_id")
