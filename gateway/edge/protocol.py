"""Uvicorn's HTTP with bounds: how long a head may be, and how long a client may take to send.

Httptools has no limit of its own for a request's head, and uvicorn no time for it: a client could
send a header for ever, or open connections and say nothing. What two servers in a row could read
in two ways (RFC 9112, sections 3.2, 6.1 and 11.2) is refused.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from http import HTTPStatus
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import msgspec
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from functions._kit.addresses import site_of

MAX_HEAD_BYTES = 32 << 10
"""Request line and headers together; a browser's has a few KB."""
MAX_HEADERS = 128
MAX_URL_BYTES = 8 << 10
HEAD_TIMEOUT_S = 30.0
"""From a connection's beginning, or a request's first byte, to the end of its head."""
BODY_SILENCE_S = 60.0
"""A body that stands still for so long, while we would read on, is given up."""
CHECK_S = 5.0
SHARE = 4
"""One address may hold this part of all connections: a fourth. A proxy that is trusted, all."""
TOO_LARGE = "the request's head is too large"


class BoundedProtocol(HttpToolsProtocol):
    """One connection. What it refuses reaches no function; who is too slow is cut off."""

    _open: ClassVar[WeakKeyDictionary[ServerState, Counter[str]]] = WeakKeyDictionary()
    """How many connections each address holds, of each server in this process."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._most_connections, self.limit_concurrency = self.limit_concurrency, None
        self._head_bytes = self._named_bytes = 0
        self._in_head, self._in_body, self._refused = True, False, False
        self._waits_since = self.loop.time()
        self._site = ""
        self._watch: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """As uvicorn, and the watch begins; the address is counted, and perhaps has too many."""
        super().connection_made(transport)
        self._watch = self.loop.call_later(CHECK_S, self._check)
        self._site = site_of(self.client[0]) if self.client else ""
        held = self._open.setdefault(self.server_state, Counter())
        held[self._site] += 1
        most = self._most_connections
        if most and not self.config.proxy_headers and held[self._site] > max(1, most // SHARE):
            self._refuse_connection()

    def connection_lost(self, exc: Exception | None) -> None:
        """As uvicorn, and the watch ends."""
        super().connection_lost(exc)
        held = self._open[self.server_state]
        held[self._site] -= 1
        if held[self._site] <= 0:
            del held[self._site]
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
            self._refuse(431, "head_too_large", TOO_LARGE)

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._in_head, self._named_bytes = True, 0
        self._waits_since = self.loop.time()

    def on_url(self, url: bytes) -> None:
        """A part of the request line."""
        super().on_url(url)
        if len(self.url) > MAX_URL_BYTES:
            self._refuse(414, "url_too_long", f"the URL may have {MAX_URL_BYTES} bytes at most")

    def on_header(self, name: bytes, value: bytes) -> None:
        """A whole header, or a trailer after the body."""
        super().on_header(name, value)
        self._named_bytes += len(name) + len(value)
        if self._named_bytes > MAX_HEAD_BYTES or len(self.headers) > MAX_HEADERS:
            self._refuse(431, "head_too_large", TOO_LARGE)

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._in_head, self._in_body, self._head_bytes = False, True, 0
        self._waits_since = self.loop.time()
        self._check_head()
        if not self._refused:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole."""
        self._in_body, self._head_bytes = False, 0
        if not self._refused:
            super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """As uvicorn, in our words; the parser's are of no use to anybody."""
        del msg
        self._refuse(400, "invalid_http", "this is not HTTP as RFC 9112 has it")

    def _check_head(self) -> None:
        version = self.parser.get_http_version()
        names = [name for name, _ in self.headers]
        if version not in {"1.0", "1.1"}:
            self._refuse(505, "http_version_not_supported", "send HTTP/1.1")
        elif names.count(b"host") != 1 and (version == "1.1" or b"host" in names):
            self._refuse(400, "invalid_http", "a request has one Host header")
        elif version == "1.0" and b"transfer-encoding" in names:
            self._refuse(400, "invalid_http", "HTTP/1.0 has no Transfer-Encoding")
        elif self._most_connections and len(self.connections) > self._most_connections:
            self._refuse_connection()

    def _refuse_connection(self) -> None:
        self._refuse(503, "too_many_connections", "try again later", b"retry-after: 1\r\n")

    def _check(self) -> None:
        now = self.loop.time()
        if self.flow.read_paused:  # it is we who do not read
            self._waits_since = now
        silent_s = now - self._waits_since
        late = (self._in_head and silent_s > HEAD_TIMEOUT_S) or (
            self._in_body and silent_s > BODY_SILENCE_S
        )
        if late and not self.transport.is_closing():
            self.transport.close()
            return
        self._watch = self.loop.call_later(CHECK_S, self._check)

    def _refuse(self, status: int, code: str, detail: str, headers: bytes = b"") -> None:
        """Answer with a problem document, and close."""
        if self._refused or self.transport.is_closing():
            return
        self._refused = True
        if (
            self.cycle is not None
            and self.cycle.response_started
            and not self.cycle.response_complete
        ):
            self.transport.close()  # else this would stand in the middle of another answer
            return
        title = HTTPStatus(status).phrase
        body = msgspec.json.encode(
            {
                "type": "about:blank",
                "title": title,
                "status": status,
                "code": code,
                "detail": detail,
            }
        )
        self.transport.write(
            STATUS_LINE[status]
            + b"content-type: application/problem+json\r\nconnection: close\r\n"
            + b"x-content-type-options: nosniff\r\ncache-control: no-store\r\n"
            + headers
            + b"content-length: %d\r\n\r\n" % len(body)
            + body
        )
        self.transport.close()
