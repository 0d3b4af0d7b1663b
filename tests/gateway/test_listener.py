"""A worker's own listener: GET /metrics for those who may, and nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from functions._kit.errors import Unavailable
from functions._kit.fakes import FakeClientStore, FakeMetrics
from functions._kit.ports import Client
from functions._kit.secrets import hash_secret
from gateway.auth import Authenticator, Tokens, api_key_lookup
from gateway.metrics.listener import MetricsApp, is_loopback, listening
from gateway.settings import SettingsError

SECRET = "a secret of the tests, of 256 bits or more"


async def authenticator(*scopes: str) -> Authenticator:
    """Knows one client, by the API key `key`."""
    clients = FakeClientStore()
    await clients.add(
        Client(
            client_id="prometheus",
            secret_hash="-",
            scopes=frozenset(scopes),
            api_key_lookup=api_key_lookup(SECRET, "key"),
            api_key_hash=hash_secret("key"),
        )
    )
    return Authenticator(clients, Tokens(SECRET, 3600), SECRET)


def caller(app: MetricsApp) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app)  # type: ignore[arg-type]
    return httpx.AsyncClient(transport=transport, base_url="http://worker.test")


@asynccontextmanager
async def open_listener(host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[str]:
    async with listening(FakeMetrics(), await authenticator(), host, port) as url:
        yield url


async def test_several_workers_of_one_machine_each_take_a_free_port() -> None:
    async with open_listener() as one, open_listener() as other:
        assert one != other
        async with httpx.AsyncClient(trust_env=False) as http:
            for url in (one, other):
                answer = await http.get(url)
                assert answer.status_code == 200
                assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
                assert answer.text.endswith("fake_scrapes_total 1.0\n")
            head = await http.head(one)
            assert (head.status_code, head.content) == (200, b"")
            assert (await http.get(one.replace("/metrics", "/"))).status_code == 404
            assert (await http.post(one)).status_code == 405
    async with httpx.AsyncClient(trust_env=False) as http:
        with pytest.raises(httpx.ConnectError):
            await http.get(one)


async def test_a_port_in_use_is_refused_with_the_way_out() -> None:
    async with open_listener() as url:
        port = httpx.URL(url).port
        assert port is not None
        with pytest.raises(SettingsError, match=r"NEREID_METRICS_HOST.*port 0 takes a free one"):
            async with open_listener(port=port):
                pass


@pytest.mark.parametrize(
    ("address", "alone"),
    [("127.0.0.1", True), ("127.1.2.3", True), ("::1", True), ("0.0.0.0", False), ("::", False)],
)
def test_credentials_are_wanted_beyond_loopback(address: str, *, alone: bool) -> None:
    assert is_loopback(address) is alone


async def test_beyond_loopback_it_wants_the_scope() -> None:
    may = MetricsApp(FakeMetrics(), await authenticator("system:read"))
    may_not = MetricsApp(FakeMetrics(), await authenticator("media:read"))
    bearer = {"Authorization": "Bearer key"}
    async with caller(may) as http:
        assert (await http.get("/metrics", headers=bearer)).status_code == 200
        nobody = await http.get("/metrics")
        assert nobody.status_code == 401
        assert nobody.headers["www-authenticate"].startswith("Bearer")
        wrong = await http.get("/metrics", headers={"Authorization": "Bearer other"})
        assert wrong.status_code == 401
    async with caller(may_not) as http:
        refused = await http.get("/metrics", headers=bearer)
        assert (refused.status_code, "system:read" in refused.text) == (403, True)


async def test_a_database_that_is_away_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    known = await authenticator("system:read")

    async def away(*_: object) -> None:
        raise Unavailable("database", "PostgreSQL cannot be reached")

    monkeypatch.setattr(known.clients, "find_by_key", away)
    async with caller(MetricsApp(FakeMetrics(), known)) as http:
        answer = await http.get("/metrics", headers={"Authorization": "Bearer key"})
    assert (answer.status_code, "PostgreSQL" in answer.text) == (503, True)
