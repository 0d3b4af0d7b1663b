"""What the suites of the ports over PostgreSQL share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import psycopg
import pytest

from gateway.adapters.tables import database as database_module
from gateway.embedded import RunningPostgres

Gone = Callable[[], AbstractAsyncContextManager[None]]


@pytest.fixture
def database_gone(
    database_url: str, postgres: RunningPostgres, monkeypatch: pytest.MonkeyPatch
) -> Gone:
    """Makes the test's database refuse everybody within a block, and ends who is connected."""
    monkeypatch.setattr(database_module, "CONNECT_TIMEOUT_S", 0.3)
    name = database_url.rpartition("/")[2]

    @asynccontextmanager
    async def gone() -> AsyncIterator[None]:
        async with await psycopg.AsyncConnection.connect(postgres.url, autocommit=True) as admin:
            await admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
            await admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name]
            )
            yield
            await admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')

    return gone
