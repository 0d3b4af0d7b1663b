"""POST /api/v1/frames: a camera's picture comes in."""

from __future__ import annotations

import tempfile
from datetime import datetime
from pathlib import Path
from typing import Annotated

from litestar import post
from litestar.openapi.spec import OpenAPIFormat, OpenAPIType, Schema
from litestar.params import QueryParameter

from functions._kit.errors import QueueFull, Unprocessable
from functions._kit.http import HttpRequest, Port, Principal, check_offset
from functions._kit.incoming import receive_picture
from functions._kit.messages import Answer, new_id, now
from functions._kit.pictures import FORMATS, check_not_too_small
from functions._kit.policy import HttpPolicy
from functions._kit.ports import Limits, Objects, PictureDecoder, Stream
from functions.alerts.contracts import (
    EARLIEST,
    FRAME_PREFIX,
    LATEST,
    Frame,
    frame_subject,
    is_camera_id,
)

_BYTES = Schema(type=OpenAPIType.STRING, format=OpenAPIFormat.BINARY)


class FrameAccepted(Answer, frozen=True, kw_only=True):
    """The frame is in the stream; what is in it will be looked at."""

    frame_id: str
    camera_id: str
    captured_at: datetime


@post(
    "/api/v1/frames",
    status_code=202,
    summary="Send a camera's frame",
    request_max_body_size=None,  # counted while it comes
    opt={
        "policy": HttpPolicy(scope="frames:write", concurrency=256, timeout_s=60.0),
        "openapi_body": {
            "image/jpeg": _BYTES,
            "multipart/form-data": Schema(
                type=OpenAPIType.OBJECT, required=["file"], properties={"file": _BYTES}
            ),
            "application/octet-stream": _BYTES,
        },
    },
)
async def frames(
    request: HttpRequest,
    principal: Port[Principal],
    objects: Port[Objects],
    pictures: Port[PictureDecoder],
    stream: Port[Stream],
    limits: Port[Limits],
    scratch: Port[Path],
    camera_id: Annotated[str, QueryParameter(max_length=64)],
    captured_at: Annotated[datetime | None, QueryParameter()] = None,
) -> FrameAccepted:
    """The picture's bytes as the body, or a form with `file`. 202 once the frame is durable."""
    if not is_camera_id(camera_id):
        raise Unprocessable(
            "invalid_camera_id",
            "camera_id must be 1 to 64 letters, digits, '-' and '_'",
            field="camera_id",
        )
    check_offset("captured_at", captured_at)
    captured_at = captured_at or now()
    if not EARLIEST <= captured_at < LATEST:
        raise Unprocessable(
            "invalid_captured_at",
            f"captured_at must be from {EARLIEST:%Y} on and before {LATEST:%Y}",
            field="captured_at",
        )
    frame_id = new_id()
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        file = Path(folder) / "frame"
        _, info = await receive_picture(
            request,
            file,
            pictures,
            limit_bytes=limits.max_frame_bytes,
            max_pixels=limits.max_pixels,
        )
        check_not_too_small(info)
        key = f"{FRAME_PREFIX}{camera_id}/{frame_id}{FORMATS[info.format].suffix}"
        await objects.upload(file, key, info.content_type)
    frame = Frame(key=key, captured_at=captured_at, client_id=principal.client_id)
    try:
        await stream.publish(frame_subject(camera_id), frame, message_id=frame_id)
    except QueueFull:  # of any other failure it is not known whether the message arrived
        await objects.delete([key])
        raise
    return FrameAccepted(frame_id=frame_id, camera_id=camera_id, captured_at=captured_at)
