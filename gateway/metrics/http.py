"""Watches every HTTP request from the outside: counts it, and makes it the root of a trace."""

from __future__ import annotations

from time import perf_counter

from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send
from prometheus_client import CollectorRegistry

from gateway.metrics import catalogue
from gateway.tracing import METHODS, Tracing

EVENT_STREAM = b"text/event-stream"


class HttpMetrics:
    """Requests by function, so that a path with ids in it makes no series of its own."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = catalogue.HTTP_REQUESTS.counter(registry)
        self._seconds = catalogue.HTTP_SECONDS.histogram(registry)
        self._active = catalogue.HTTP_ACTIVE.gauge(registry)

    def around(self, app: ASGIApp, tracing: Tracing) -> ASGIApp:
        """`app`, watched. Outermost, so that refusals and unknown paths are counted, too."""

        async def watched(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != ScopeType.HTTP:
                await app(scope, receive, send)
                return
            began = perf_counter()
            status = 0
            took_s: float | None = None

            async def sending(message: Message) -> None:
                nonlocal status, took_s
                if message["type"] == "http.response.start":
                    status = message["status"]
                    if any(value.startswith(EVENT_STREAM) for _, value in message["headers"]):
                        took_s = perf_counter() - began
                await send(message)

            self._active.inc()
            try:
                with tracing.request(scope) as span:
                    await app(scope, receive, sending)
                    span.answered(scope, status)
            finally:
                self._active.dec()
                took_s = perf_counter() - began if took_s is None else took_s
                self._count(scope, status, took_s)

        return watched

    def _count(self, scope: HTTPScope, status: int, took_s: float) -> None:
        function = function_of(scope)
        method = scope["method"] if scope["method"] in METHODS else "other"
        self._requests.labels(function, method, f"{status // 100}xx" if status else "none").inc()
        self._seconds.labels(function, method).observe(took_s)


def function_of(scope: HTTPScope) -> str:
    """The function that answered: `documentation` for the API's own, `none` for no route."""
    handler = scope.get("route_handler")
    if handler is None:
        return "none"
    return str(handler.opt.get("function", "documentation"))
