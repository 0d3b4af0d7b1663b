"""One suite over the fake and over a real PostgreSQL: what `ClientStore` promises."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio

from functions._kit.errors import Conflict, Unavailable
from functions._kit.fakes import FakeClientStore
from functions._kit.messages import now
from functions._kit.ports import Client, ClientStore
from gateway.adapters.tables import ClientTable, open_database


@pytest.fixture(params=["fake", "postgres"])
def address(request: pytest.FixtureRequest) -> str | None:
    """Where the real database is; None for the fake."""
    return str(request.getfixturevalue("database_url")) if request.param == "postgres" else None


@pytest_asyncio.fixture
async def clients(address: str | None) -> AsyncIterator[ClientStore]:
    if address is None:
        yield FakeClientStore()
        return
    async with open_database(address) as database:
        yield ClientTable(database)


def client(client_id: str, lookup: bytes | None = None) -> Client:
    return Client(
        client_id=client_id,
        secret_hash="$argon2id$hash",
        scopes=frozenset({"media:read", "media:write"}),
        api_key_lookup=lookup,
        api_key_hash=None if lookup is None else "$argon2id$key",
    )


async def test_a_client_is_found_by_its_id_and_by_its_key(clients: ClientStore) -> None:
    before = now()
    added = client("alice", b"\0lookup\xff")
    await clients.add(added)
    found = await clients.find("alice")
    assert found is not None
    assert found.created_at is not None
    assert abs(found.created_at - before).total_seconds() < 60
    assert replace(found, created_at=None) == added
    assert await clients.find_by_key(b"\0lookup\xff") == found


async def test_a_client_without_scopes_or_key_is_kept_so(clients: ClientStore) -> None:
    await clients.add(replace(client("bare"), scopes=frozenset()))
    found = await clients.find("bare")
    assert found is not None
    assert (found.scopes, found.api_key_lookup, found.api_key_hash) == (frozenset(), None, None)


@pytest.mark.parametrize("stranger", ["", "Alice", "alice ", "al%", "' OR TRUE --", "a\0lice"])
async def test_a_stranger_is_none(clients: ClientStore, stranger: str) -> None:
    await clients.add(client("alice", b"key"))
    assert await clients.find(stranger) is None
    assert await clients.find_by_key(stranger.encode()) is None


async def test_clients_without_a_key_are_found_by_none(clients: ClientStore) -> None:
    await clients.add(client("alice"))
    await clients.add(client("bob"))
    assert await clients.find_by_key(b"") is None


async def test_an_id_or_a_key_belongs_to_one_client(clients: ClientStore) -> None:
    await clients.add(client("alice", b"key"))
    for taken in (client("alice"), client("bob", b"key")):
        with pytest.raises(Conflict) as caught:
            await clients.add(taken)
        assert (caught.value.code, caught.value.field) == ("client_exists", "client_id")
    assert await clients.find("bob") is None
    assert [one.api_key_lookup for one in await clients.all()] == [b"key"]


async def test_of_many_at_once_one_takes_the_id(clients: ClientStore) -> None:
    adding = [clients.add(client("alice", bytes([n]))) for n in range(10)]
    results = await asyncio.gather(*adding, return_exceptions=True)
    assert results.count(None) == 1
    assert sum(isinstance(result, Conflict) for result in results) == 9
    assert len(await clients.all()) == 1


async def test_all_clients_come_by_id(clients: ClientStore) -> None:
    assert await clients.all() == []
    for name in ("carol", "Bob", "alice", "été", "a-b", "ab"):
        await clients.add(client(name))
    names = [one.client_id for one in await clients.all()]
    assert names == ["Bob", "a-b", "ab", "alice", "carol", "été"]


async def test_a_removed_client_is_gone_and_may_come_again(clients: ClientStore) -> None:
    await clients.add(client("alice", b"key"))
    assert await clients.remove("alice")
    assert not await clients.remove("alice")
    assert await clients.find("alice") is None
    assert await clients.find_by_key(b"key") is None
    await clients.add(client("alice", b"key"))


async def test_a_sick_fake_is_unavailable() -> None:
    clients = FakeClientStore()
    clients.sick = True
    for call in (
        clients.find("a"),
        clients.find_by_key(b"a"),
        clients.add(client("a")),
        clients.all(),
        clients.remove("a"),
    ):
        with pytest.raises(Unavailable) as caught:
            await call
        assert (caught.value.code, caught.value.backend) == ("database_unavailable", "database")


async def test_an_absent_database_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.adapters.tables.database.CONNECT_TIMEOUT_S", 0.5)
    with pytest.raises(Unavailable) as caught:
        async with open_database("postgresql://nobody@127.0.0.1:1/nothing"):
            raise AssertionError("it opened")
    assert caught.value.code == "database_unavailable"
