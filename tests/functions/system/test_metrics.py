"""GET /metrics, and what is counted around every other function."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from prometheus_client import CollectorRegistry

from gateway.metrics import http
from gateway.metrics.http import HttpMetrics
from gateway.tracing import UNTRACED

if TYPE_CHECKING:
    from tests.functions.conftest import World

AssertProblem = Callable[..., dict[str, Any]]


class Counted:
    """A world's app as a gateway serves it."""

    def __init__(self, world: World) -> None:
        self.registry = CollectorRegistry()
        app: Any = HttpMetrics(self.registry).around(world.app, UNTRACED)
        self.http = httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://nereid.test"
        )

    def count(self, function: str, method: str, status: str) -> float:
        labels = {"function": function, "method": method, "status": status}
        return self.registry.get_sample_value("nereid_http_requests_total", labels) or 0.0

    def timed(self, function: str, method: str) -> float:
        labels = {"function": function, "method": method}
        name = "nereid_http_request_duration_seconds_count"
        return self.registry.get_sample_value(name, labels) or 0.0

    @property
    def active(self) -> float | None:
        return self.registry.get_sample_value("nereid_http_requests_active")


async def test_it_tells_those_who_may_read_the_system(
    world: World,
    operator: httpx.AsyncClient,
    alice: httpx.AsyncClient,
    assert_problem: AssertProblem,
) -> None:
    answer = await operator.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert answer.text.endswith("fake_scrapes_total 1.0\n")
    assert_problem(await alice.get("/metrics"), 403, "scope_missing", "scope")
    await world.add_key("prometheus", "its key", "system:read")
    bearer = {"Authorization": "Bearer its key"}
    assert (await (await world.http()).get("/metrics", headers=bearer)).status_code == 200


async def test_requests_are_counted_by_function_method_and_status_class(world: World) -> None:
    counted = Counted(world)
    await world.add_key("me", "key", "media:read")
    key = {"X-API-Key": "key"}
    assert (await counted.http.get("/health/live")).status_code == 200
    assert (await counted.http.post("/api/v1/media")).status_code == 401
    tasks = "/api/v1/media/processingTasks"
    assert (await counted.http.get(tasks, headers=key)).status_code == 200
    assert (await counted.http.get(f"{tasks}/nothing", headers=key)).status_code == 404
    world.store.sick = True
    assert (await counted.http.get(tasks, headers=key)).status_code == 503
    assert counted.count("system.health", "GET", "2xx") == 1
    assert counted.count("media.upload", "POST", "4xx") == 1
    assert counted.count("tasks.list", "GET", "2xx") == 1
    assert counted.count("tasks.list", "GET", "5xx") == 1
    assert counted.count("tasks.status", "GET", "4xx") == 1
    assert counted.timed("tasks.list", "GET") == 2
    assert counted.active == 0


async def test_what_no_function_answers_makes_no_series_of_its_own(world: World) -> None:
    counted = Counted(world)
    for number in range(3):
        assert (await counted.http.get(f"/nothing/{number}")).status_code == 404
    assert (await counted.http.request("BREW", "/nothing")).status_code in {404, 405}
    assert (await counted.http.get("/schema/openapi.json")).status_code == 200
    assert counted.count("none", "GET", "4xx") == 3
    assert counted.count("none", "other", "4xx") == 1
    assert counted.count("documentation", "GET", "2xx") == 1


async def test_an_event_stream_is_timed_to_its_beginning_and_active_until_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registry = CollectorRegistry()
    opened, end = asyncio.Event(), asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        opened.set()
        await end.wait()

    async def nothing(*_: object) -> Any: ...

    watched = HttpMetrics(registry).around(app, UNTRACED)
    scope: Any = {"type": "http", "method": "GET", "path": "/events"}
    moments = iter([10.0, 10.5])  # of the request and of the answer's beginning; no third look
    monkeypatch.setattr(http, "perf_counter", lambda: next(moments))
    serving = asyncio.ensure_future(watched(scope, nothing, nothing))
    await opened.wait()
    assert registry.get_sample_value("nereid_http_requests_active") == 1
    end.set()
    await serving
    assert registry.get_sample_value("nereid_http_requests_active") == 0
    labels = {"function": "none", "method": "GET"}
    name = "nereid_http_request_duration_seconds_sum"
    assert registry.get_sample_value(name, labels) == 0.5


async def test_an_answer_that_never_began_is_counted_as_none() -> None:
    registry = CollectorRegistry()

    async def app(*_: object) -> None: ...

    watched: Any = HttpMetrics(registry).around(app, UNTRACED)
    await watched({"type": "http", "method": "GET", "path": "/"}, None, None)
    labels = {"function": "none", "method": "GET", "status": "none"}
    assert registry.get_sample_value("nereid_http_requests_total", labels) == 1
