"""Answers of files that have no name any more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, BinaryIO

from litestar.response import Stream
from litestar.types import ASGIApp, Receive, Scope, Send

from functions._kit.http import HttpRequest

PIECE_BYTES = 1 << 18
"""So much is read and sent at a time."""


class OpenFile(Stream):
    """Sends an open file to its end and closes it, even where the caller has gone meanwhile.

    A file that was opened and then removed needs no further care: it ends with the answer.
    """

    def __init__(self, content: BinaryIO, *, size_bytes: int, headers: dict[str, str]) -> None:
        super().__init__(_pieces(content), headers={"Content-Length": str(size_bytes), **headers})
        self._file = content

    def to_asgi_response(  # type: ignore[override]  # Litestar calls whatever comes
        self, app: Any, request: HttpRequest, **options: Any
    ) -> ASGIApp:
        """See `Stream.to_asgi_response`."""
        answer = super().to_asgi_response(app, request, **options)

        async def send_and_close(scope: Scope, receive: Receive, send: Send) -> None:
            with self._file:
                await answer(scope, receive, send)

        return send_and_close


async def _pieces(content: BinaryIO) -> AsyncIterator[bytes]:
    while piece := await asyncio.to_thread(content.read, PIECE_BYTES):
        yield piece
