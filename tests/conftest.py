"""The real servers, each started once per run and only when a test asks for it."""

from __future__ import annotations

import re
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
import pytest_asyncio
from psycopg import sql
from xdist.scheduler import LoadScopeScheduling

from gateway.embedded import (
    EmbeddedServers,
    EmbeddedSettings,
    PostgresSettings,
    RunningNats,
    RunningPostgres,
    RunningS3,
    RunningTriton,
)

# Tests ask whether facts are written, not whether they outlive a power cut.
FAST_POSTGRES = PostgresSettings(
    options=(("fsync", "off"), ("synchronous_commit", "off"), ("full_page_writes", "off"))
)


WHOLE_SYSTEMS = ("tests/live/", "tests/models/", "tests/monitoring/")
"""Folders whose tests ask much of Triton and of the machine: one after the other."""
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def pytest_make_parametrize_id(val: object) -> str | None:
    """A test has the same name in each process, even if a parameter is an id made just now."""
    return UUID.sub("ID", val) if isinstance(val, str) and UUID.search(val) else None


class Apart(LoadScopeScheduling):  # type: ignore[misc]  # it has no types
    """What asks much of the machine runs in one process, the rest beside it, a file at a time.

    A process has each of the shared servers once, from the first test that asks for it.
    """

    def _split_scope(self, nodeid: str) -> str:
        return "systems" if nodeid.startswith(WHOLE_SYSTEMS) else nodeid.partition("::")[0]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The chaos comes last: it has the machine to itself once the other process is done."""
    items.sort(key=lambda item: item.nodeid.startswith("tests/live/test_chaos.py"))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """For `pytest -n 2`, as `just test` calls it."""
    return Apart(config, log)


@dataclass(frozen=True, slots=True)
class Servers:
    """All four servers."""

    nats: RunningNats
    s3: RunningS3
    postgres: RunningPostgres
    triton: RunningTriton


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def nats_server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningNats]:
    """NATS with JetStream; its streams are shared by all tests of the run."""
    async with EmbeddedServers(tmp_path_factory.mktemp("nats"), want={"nats"}) as servers:
        yield servers.nats


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def s3(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningS3]:
    """S3 with one bucket, shared by all tests of the run."""
    async with EmbeddedServers(tmp_path_factory.mktemp("s3"), want={"s3"}) as servers:
        yield servers.s3


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def postgres(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningPostgres]:
    """PostgreSQL; a test that wants tables asks for `database_url`."""
    settings = EmbeddedSettings(postgres=FAST_POSTGRES)
    data = tmp_path_factory.mktemp("postgres")
    async with EmbeddedServers(data, want={"postgres"}, settings=settings) as servers:
        yield servers.postgres


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def triton(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningTriton]:
    """Triton on the checkout's model repository; models are loaded when first asked for."""
    async with EmbeddedServers(tmp_path_factory.mktemp("triton"), want={"triton"}) as servers:
        yield servers.triton


@pytest.fixture
def nats_url(nats_server: RunningNats) -> str:
    """nats://user:password@127.0.0.1:port."""
    return nats_server.url


@pytest.fixture
def triton_url(triton: RunningTriton) -> str:
    """127.0.0.1:port for gRPC."""
    return triton.url


@pytest_asyncio.fixture
async def database_url(postgres: RunningPostgres) -> AsyncIterator[str]:
    """An empty database of the test's own, dropped at its end."""
    name = f"test_{uuid.uuid4().hex}"
    database = sql.Identifier(name)
    async with await psycopg.AsyncConnection.connect(postgres.url, autocommit=True) as admin:
        await admin.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(database))
        try:
            yield f"{postgres.url.rpartition('/')[0]}/{name}"
        finally:
            await admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(database))


@pytest.fixture
def servers(
    nats_server: RunningNats, s3: RunningS3, postgres: RunningPostgres, triton: RunningTriton
) -> Servers:
    """All four servers."""
    return Servers(nats_server, s3, postgres, triton)
