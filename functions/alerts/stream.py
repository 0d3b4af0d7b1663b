"""GET /api/v1/alerts/stream: alerts as they come (SSE)."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Annotated

import msgspec
from litestar import get
from litestar.params import HeaderParameter, QueryParameter
from litestar.response import ServerSentEvent, ServerSentEventMessage

from functions._kit.http import Port
from functions._kit.messages import NO_JSON
from functions._kit.policy import HttpPolicy
from functions._kit.ports import Limits, Objects, Record, Stream
from functions._kit.sse import HEARTBEAT, position, with_heartbeats
from functions.alerts._view import view
from functions.alerts.contracts import Alert

log = logging.getLogger(__name__)

SUBJECT = "events.alert.>"

_decode = msgspec.json.Decoder(Alert).decode


@get(
    "/api/v1/alerts/stream",
    summary="Follow the alerts",
    media_type="text/event-stream",
    opt={"policy": HttpPolicy(scope="alerts:read", timeout_s=None)},
)
async def stream_alerts(
    stream: Port[Stream],
    objects: Port[Objects],
    limits: Port[Limits],
    camera_id: Annotated[str | None, QueryParameter(max_length=100)] = None,
    label: Annotated[str | None, QueryParameter(max_length=100)] = None,
    min_score: Annotated[float | None, QueryParameter(ge=0, le=1)] = None,
    last_event_id: Annotated[str | None, HeaderParameter(name="Last-Event-ID")] = None,
) -> ServerSentEvent:
    """`alert` at once, and `image` with its URL when its picture has been kept.

    From now on, or from `Last-Event-ID` without a gap: the ids are the stream's sequence
    numbers, which it remembers for a week.
    """
    last = await stream.last(SUBJECT)
    newest = 0 if last is None else last.sequence
    # an id from before the stream was made anew may lie in the future
    after = min(position(last_event_id) or newest, newest)

    def is_wanted(alert: Alert) -> bool:
        return (
            (camera_id is None or alert.camera_id == camera_id)
            and (label is None or alert.label == label)
            and (min_score is None or alert.score >= min_score)
        )

    async def messages() -> AsyncIterator[ServerSentEventMessage]:
        async for record in with_heartbeats(stream.follow(SUBJECT, after=after)):
            if record is None:
                yield HEARTBEAT
            elif (alert := _read(record)) is not None and is_wanted(alert):
                yield await _message(record, alert, objects, limits)

    return ServerSentEvent(messages())


def _read(record: Record) -> Alert | None:
    """The alert, or None for what is none: whoever came after it would end here, too."""
    try:
        return _decode(record.data)
    except NO_JSON as error:
        log.warning("%s %d is no alert: %s", record.subject, record.sequence, error)
        return None


async def _message(
    record: Record, alert: Alert, objects: Objects, limits: Limits
) -> ServerSentEventMessage:
    body = await view(alert, objects, limits.url_lifetime_s)
    return ServerSentEventMessage(
        id=record.sequence,
        event="alert" if alert.image_key is None else "image",
        data=msgspec.json.encode(body).decode(),
    )
