"""GET /api/v1/alerts/stream: alerts as they come (SSE)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

import msgspec
from litestar import get
from litestar.params import HeaderParameter, QueryParameter
from litestar.response import ServerSentEvent, ServerSentEventMessage

from functions._kit.http import Port
from functions._kit.policy import HttpPolicy
from functions._kit.ports import Limits, Objects, Record, Stream
from functions._kit.sse import HEARTBEAT, position, with_heartbeats
from functions.alerts._view import view
from functions.alerts.contracts import Alert

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

    def is_wanted(alert: Alert) -> bool:
        return (
            (camera_id is None or alert.camera_id == camera_id)
            and (label is None or alert.label == label)
            and (min_score is None or alert.score >= min_score)
        )

    async def messages() -> AsyncIterator[ServerSentEventMessage]:
        records = stream.follow("events.alert.>", after=position(last_event_id) or None)
        async for record in with_heartbeats(records):
            if record is None:
                yield HEARTBEAT
            elif is_wanted(alert := _decode(record.data)):
                yield await _message(record, alert, objects, limits)

    return ServerSentEvent(messages())


async def _message(
    record: Record, alert: Alert, objects: Objects, limits: Limits
) -> ServerSentEventMessage:
    body = await view(alert, objects, limits.url_lifetime_s)
    return ServerSentEventMessage(
        id=record.sequence,
        event="alert" if alert.image_key is None else "image",
        data=msgspec.json.encode(body).decode(),
    )
