"""Pictures that come in over HTTP."""

from __future__ import annotations

import asyncio
from pathlib import Path

from functions._kit.errors import JobFailed, Unprocessable
from functions._kit.http import HttpRequest, Received, receive
from functions._kit.pictures import PictureInfo, probe


async def receive_picture(
    request: HttpRequest, into: Path, *, limit_bytes: int, max_pixels: int
) -> tuple[Received, PictureInfo]:
    """Write the body to `into` as `receive` does, and look at its header.

    Raises as `receive` and `probe` do, but for `JobFailed`: what ends a job is the request's
    fault here (`Unprocessable`, with the same code).
    """
    received = await receive(request, into, limit_bytes=limit_bytes)
    try:
        info = await asyncio.to_thread(probe, into, max_pixels=max_pixels)
    except JobFailed as error:
        raise Unprocessable(error.code, error.message, field="file") from error
    return received, info
