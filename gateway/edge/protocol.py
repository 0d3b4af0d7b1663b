"""Uvicorn's HTTP with bounds: how long a head may be, and how long a client may take to send.

Httptools has no limit of its own for a request's head, and uvicorn no time for it: a client could
send a header for ever, or open connections and say nothing.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

MAX_HEAD_BYTES = 32 << 10
"""Request line and headers together; a cookie-laden one of a browser has a few KB."""
MAX_URL_BYTES = 8 << 10
HEAD_TIMEOUT_S = 30.0
"""From a connection's beginning, or a request's first byte, to the end of its head."""
BODY_SILENCE_S = 60.0
"""A body that stands still for so long, while we would read on, is given up."""
CHECK_S = 5.0


class BoundedProtocol(HttpToolsProtocol):
    """One connection. Refuses with 414 and 431; closes what is too slow without a word."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._head_bytes = self._named_bytes = 0
        self._in_head, self._in_body = True, False
        self._waits_since = self.loop.time()
        self._watch: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """As uvicorn, and the watch begins."""
        super().connection_made(transport)
        self._watch = self.loop.call_later(CHECK_S, self._check)

    def connection_lost(self, exc: Exception | None) -> None:
        """As uvicorn, and the watch ends."""
        super().connection_lost(exc)
        if self._watch is not None:
            self._watch.cancel()

    def data_received(self, data: bytes) -> None:
        """As uvicorn, but no more of a head than is allowed."""
        if self._in_body:
            self._waits_since = self.loop.time()
        self._head_bytes += len(data)
        super().data_received(data)
        # What the parser holds back of an endless header shows in no callback.
        if self._in_head and self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(431, "The head of the request is too large.")

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._in_head, self._named_bytes = True, 0
        self._waits_since = self.loop.time()

    def on_url(self, url: bytes) -> None:
        """A part of the request line."""
        super().on_url(url)
        if len(self.url) > MAX_URL_BYTES:
            self._refuse(414, "The URL is too long.")

    def on_header(self, name: bytes, value: bytes) -> None:
        """A whole header."""
        super().on_header(name, value)
        self._named_bytes += len(name) + len(value)
        if self._named_bytes > MAX_HEAD_BYTES:
            self._refuse(431, "The head of the request is too large.")

    def on_headers_complete(self) -> None:
        """The head is whole; what was refused meanwhile reaches no function."""
        self._in_head, self._in_body, self._head_bytes = False, True, 0
        self._waits_since = self.loop.time()
        if not self.transport.is_closing():
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of the body, but of nothing that was refused."""
        if self.cycle is not None:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole."""
        self._in_body, self._head_bytes = False, 0
        if self.cycle is not None:
            super().on_message_complete()

    def _check(self) -> None:
        silent_s = self.loop.time() - self._waits_since
        head_late = self._in_head and self._has_begun() and silent_s > HEAD_TIMEOUT_S
        body_late = self._in_body and not self.flow.read_paused and silent_s > BODY_SILENCE_S
        if (head_late or body_late) and not self.transport.is_closing():
            self.transport.close()
            return
        self._watch = self.loop.call_later(CHECK_S, self._check)

    def _has_begun(self) -> bool:
        """Whether a head is awaited or half there; between requests uvicorn's own time counts."""
        return self.timeout_keep_alive_task is None

    def _refuse(self, status: int, message: str) -> None:
        if self.transport.is_closing():
            return
        body = message.encode()
        self.transport.write(
            STATUS_LINE[status]
            + b"content-type: text/plain; charset=utf-8\r\nconnection: close\r\n"
            + b"content-length: %d\r\n\r\n" % len(body)
            + body
        )
        self.transport.close()
