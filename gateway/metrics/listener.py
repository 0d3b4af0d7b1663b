"""A worker has no HTTP of its own: this small listener answers GET /metrics, and nothing else."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from litestar.datastructures import Headers
from litestar.enums import ScopeType
from litestar.types import HTTPScope, Receive, Scope, Send

from functions._kit.errors import NereidError, RequestError
from functions._kit.http import caller_of
from functions._kit.ports import METRICS_MEDIA_TYPE, Metrics
from gateway.auth import Authenticator
from gateway.edge.protocol import BoundedProtocol
from gateway.serving import Server
from gateway.settings import SettingsError

log = logging.getLogger(__name__)

PATH = "/metrics"
SCOPE = "system:read"
MOST_AT_ONCE = 64
STOP_GRACE_S = 1


class MetricsApp:
    """GET /metrics for those who may: all on loopback, else callers with `system:read`.

    On loopback it asks nobody for credentials, and so goes on while the database, which knows
    the clients, is away.
    """

    def __init__(self, metrics: Metrics, authenticator: Authenticator | None) -> None:
        self._metrics = metrics
        self._authenticator = authenticator

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, as ASGI has it."""
        del receive
        if scope["type"] != ScopeType.HTTP:
            return
        status, text = await self._answer(scope)
        kind = METRICS_MEDIA_TYPE if status == 200 else "text/plain"
        headers = [
            (b"content-type", f"{kind}; charset=utf-8".encode()),
            (b"content-length", b"%d" % len(text)),
            (b"x-content-type-options", b"nosniff"),
            (b"cache-control", b"no-store"),
        ]
        if status == 401:
            headers.append((b"www-authenticate", b'Bearer realm="nereid"'))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        body = b"" if scope["method"] == "HEAD" else text
        await send({"type": "http.response.body", "body": body, "more_body": False})

    async def _answer(self, scope: HTTPScope) -> tuple[int, bytes]:
        if scope["path"] != PATH:
            return 404, b"there is GET /metrics alone\n"
        if scope["method"] not in {"GET", "HEAD"}:
            return 405, b"there is GET /metrics alone\n"
        if self._authenticator is not None:
            headers, address = dict(Headers.from_scope(scope)), caller_of(scope)
            try:
                principal = await self._authenticator.authenticate(headers, address)
            except RequestError as error:
                self._authenticator.events.tell(error.code, client=None, address=address)
                return error.status, f"{error.message}\n".encode()
            except NereidError as error:
                return 503, f"{error.message}\n".encode()
            if SCOPE not in principal.scopes:
                return 403, f"this needs the scope {SCOPE!r}\n".encode()
        return 200, (await self._metrics.exposition()).encode()


@asynccontextmanager
async def listening(
    metrics: Metrics, authenticator: Authenticator, host: str, port: int
) -> AsyncIterator[str]:
    """Answer while the block runs; gives the URL. Raises `SettingsError` for a port in use."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family)
    except OSError as error:
        raise SettingsError(
            f"NEREID_METRICS_HOST and _PORT: {host}:{port} cannot be listened on "
            f"({error.strerror}); port 0 takes a free one"
        ) from error
    address, bound, *_ = listener.getsockname()
    config = uvicorn.Config(
        MetricsApp(metrics, None if is_loopback(address) else authenticator),
        log_config=None,
        access_log=False,
        server_header=False,
        http=BoundedProtocol,
        ws="none",
        proxy_headers=False,
        lifespan="off",
        limit_concurrency=MOST_AT_ONCE,
        timeout_graceful_shutdown=STOP_GRACE_S,
    )
    server = Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    url = f"http://{f'[{address}]' if family is socket.AF_INET6 else address}:{bound}{PATH}"
    log.info("metrics at %s", url)
    try:
        yield url
    finally:
        server.should_exit = True
        await serving


def is_loopback(address: str) -> bool:
    """Whether this machine alone can reach it."""
    return ipaddress.ip_address(address).is_loopback
