"""Pictures that come in over HTTP."""

from __future__ import annotations

from pathlib import Path

from functions._kit.errors import JobFailed, Unprocessable
from functions._kit.http import HttpRequest, Received, receive
from functions._kit.pictures import PictureInfo
from functions._kit.ports import PictureDecoder


async def receive_picture(
    request: HttpRequest,
    into: Path,
    pictures: PictureDecoder,
    *,
    limit_bytes: int,
    max_pixels: int,
) -> tuple[Received, PictureInfo]:
    """Write the body to `into` as `receive` does, and look at its header.

    Raises as `receive` and `PictureDecoder.probe` do, but for `JobFailed`: what ends a
    job is the request's fault here (`Unprocessable`, with the same code).
    """
    received = await receive(request, into, limit_bytes=limit_bytes)
    try:
        info = await pictures.probe(into, max_pixels=max_pixels)
    except JobFailed as error:
        raise Unprocessable(error.code, error.message, field="file") from error
    return received, info
