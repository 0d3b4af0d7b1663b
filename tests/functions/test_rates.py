"""Every HTTP function against who calls too often, and what of it is logged."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from litestar.handlers import HTTPRouteHandler

from functions._kit.ports import Client
from functions._kit.secrets import hash_secret
from gateway import auth
from gateway.edge.events import QUIET_S, SecurityEvents
from gateway.edge.rates import Rates
from gateway.registry import discover

if TYPE_CHECKING:
    from tests.functions.conftest import World

AssertProblem = Callable[..., dict[str, Any]]
TASKS = "/api/v1/media/processingTasks"
TOKEN = "/api/v1/auth/token"
HANDLERS: list[HTTPRouteHandler] = [route for f in discover() for route in f.routes]
ROUTES = sorted({(str(m), min(h.paths)) for h in HANDLERS for m in h.http_methods})


def from_address(app: Any, address: str, **headers: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app, client=(address, 1234)),
        base_url="http://nereid.test",
        headers=headers,
    )


async def test_every_function_counts_the_address_before_it_asks_who_it_is(
    world: World, assert_problem: AssertProblem
) -> None:
    app = world.new_app(rates=Rates(requests_per_address=1))
    for number, (method, path) in enumerate(ROUTES):
        async with from_address(app, f"192.0.2.{number}") as caller:
            await caller.get("/health/live")
            answer = await caller.request(method, path)
            if method == "HEAD":
                assert answer.status_code == 429
                continue
            assert_problem(answer, 429, "too_many_requests")
            assert 0 < int(answer.headers["retry-after"]) <= 60
    assert len(ROUTES) >= 35


async def test_a_client_is_counted_whatever_address_it_has_and_whatever_it_shows(
    world: World, assert_problem: AssertProblem
) -> None:
    await world.add_key("alice", "a key of alice's", "media:read")
    client = await world.clients.find("alice")
    assert client is not None
    app = world.new_app(rates=Rates(requests_per_client=2))
    shown = (
        {"X-API-Key": "a key of alice's"},
        {"Authorization": f"Bearer {world.tokens.issue(client)}"},
    )
    for number, headers in enumerate(shown):
        async with from_address(app, f"192.0.2.{number}", **headers) as caller:
            assert (await caller.get(TASKS)).status_code == 200
    async with from_address(app, "192.0.2.9", **shown[0]) as caller:
        answer = await caller.get(TASKS)
        assert_problem(answer, 429, "too_many_requests")
        assert int(answer.headers["retry-after"]) > 0
        assert (await caller.get("/health/live")).status_code == 200
    bob = Client(client_id="bob", secret_hash="-", scopes=frozenset({"media:read"}))
    await world.clients.add(bob)
    bobs = {"Authorization": f"Bearer {world.tokens.issue(bob)}"}
    async with from_address(app, "192.0.2.9", **bobs) as caller:
        assert (await caller.get(TASKS)).status_code == 200


async def test_addresses_of_one_ipv6_network_are_one(
    world: World, assert_problem: AssertProblem
) -> None:
    app = world.new_app(rates=Rates(requests_per_address=1))
    async with from_address(app, "2001:db8:1:2::1") as caller:
        assert (await caller.get("/health/live")).status_code == 200
    async with from_address(app, "2001:db8:1:2:ffff::9") as caller:
        assert_problem(await caller.get("/health/live"), 429, "too_many_requests")
    async with from_address(app, "2001:db8:1:3::1") as caller:
        assert (await caller.get("/health/live")).status_code == 200


async def test_the_default_rates_are_never_met_by_cameras_and_by_load() -> None:
    rates = Rates()
    assert rates.requests_per_client / 60 >= 10 * 30, (
        "ten cameras of 30 frames a second, one client"
    )
    assert rates.requests_per_address >= rates.requests_per_client


async def test_slow_guessing_from_many_addresses_ends_for_the_id_and_not_for_its_owner(
    world: World, assert_problem: AssertProblem
) -> None:
    secret = "alice's true secret"
    alice = Client(client_id="alice", secret_hash=hash_secret(secret), scopes=frozenset())
    await world.clients.add(alice)
    app = world.new_app(rates=Rates(wrong_secrets_per_hour=3))

    def body(client_id: str, given: str) -> dict[str, str]:
        return {
            "client_id": client_id, "client_secret": given, "grant_type": "client_credentials"
        }  # fmt: skip

    async with from_address(app, "192.0.2.1") as home:
        assert (await home.post(TOKEN, json=body("alice", secret))).status_code == 200
    answers = {}
    for client_id in ("alice", "no-such-client"):
        for number in range(3):
            async with from_address(app, f"203.0.113.{number}") as guesser:
                answer = await guesser.post(TOKEN, json=body(client_id, f"guess {number}"))
                assert_problem(answer, 401, "invalid_client")
        async with from_address(app, "203.0.113.50") as guesser:
            answer = await guesser.post(TOKEN, json=body(client_id, secret))
            assert_problem(answer, 429, "too_many_attempts")
            assert int(answer.headers["retry-after"]) > 0
            answers[client_id] = answer.content
    assert answers["alice"] == answers["no-such-client"]
    async with from_address(app, "192.0.2.1") as home:
        assert (await home.post(TOKEN, json=body("alice", secret))).status_code == 200


async def test_guessing_api_keys_ends_for_the_address_and_not_for_tokens(
    world: World, assert_problem: AssertProblem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "FAILURES_PER_MINUTE", 3)
    await world.add_key("alice", "a key of alice's", "media:read")
    client = await world.clients.find("alice")
    assert client is not None
    app = world.app
    async with from_address(app, "203.0.113.1") as guesser:
        statuses = [
            (await guesser.get(TASKS, headers={"X-API-Key": f"guess {number}"})).status_code
            for number in range(5)
        ]
        assert statuses == [401] * 3 + [429] * 2
        answer = await guesser.get(TASKS, headers={"X-API-Key": "a key of alice's"})
        assert_problem(answer, 429, "too_many_attempts")
        token = {"Authorization": f"Bearer {world.tokens.issue(client)}"}
        assert (await guesser.get(TASKS, headers=token)).status_code == 200
    async with from_address(app, "203.0.113.2") as other:
        answer = await other.get(TASKS, headers={"X-API-Key": "a key of alice's"})
        assert answer.status_code == 200


async def test_refusals_are_logged_with_who_and_where(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    await world.add_key("alice", "a key of alice's", "media:read")
    caplog.set_level(logging.INFO, "nereid.security")
    async with from_address(world.app, "203.0.113.1") as caller:
        await caller.get(TASKS)
        await caller.get(TASKS, headers={"X-API-Key": "a wrong guess"})
        for _ in range(10):
            await caller.get("/metrics", headers={"X-API-Key": "a key of alice's"})
        forged = {"client_id": "eve\nINFO all is well", "client_secret": "a wrong guess"}
        await caller.post(TOKEN, json=forged | {"grant_type": "client_credentials"})
    lines = [record.getMessage() for record in caplog.records if record.name == "nereid.security"]
    assert lines == [
        "credentials_missing: client None at 203.0.113.1",
        "invalid_api_key: client None at 203.0.113.1",
        "api_key_accepted: client 'alice' at 203.0.113.1",
        "scope_missing: client 'alice' at 203.0.113.1",
        "invalid_client: client None at 203.0.113.1",
    ]


def test_a_flood_of_one_event_is_one_line_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    moment = 0.0
    events = SecurityEvents(lambda: moment)
    for _ in range(1000):
        events.tell("invalid_token", client=None, address="203.0.113.1")
    events.tell("invalid_token", client=None, address="203.0.113.2")
    moment = QUIET_S
    events.tell("invalid_token", client=None, address="203.0.113.1")
    assert [record.getMessage() for record in caplog.records] == [
        "invalid_token: client None at 203.0.113.1",
        "invalid_token: client None at 203.0.113.2",
        "invalid_token: client None at 203.0.113.1 (999 more since the last line)",
    ]
