"""A pool of connections, and the schema's migrations."""

from __future__ import annotations

import select
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg
from psycopg import AsyncConnection
from psycopg.abc import Buffer
from psycopg.adapt import AdaptersMap
from psycopg.rows import DictRow, dict_row
from psycopg.types.string import StrDumperUnknown
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from functions._kit.errors import Unavailable

MIGRATIONS = Path(__file__).parent / "migrations"
MIGRATION_LOCK = 0x6E657265  # "nere": one number that every process of ours locks
CONNECT_TIMEOUT_S = 5.0
STATEMENT_TIMEOUT_MS = 15_000

Connection = AsyncConnection[DictRow]


class _Text(StrDumperUnknown):
    """Text without NUL, the one character that PostgreSQL refuses (documentation, section 8.3)."""

    def dump(self, obj: str) -> Buffer | None:
        return super().dump(obj.replace("\0", "\N{REPLACEMENT CHARACTER}"))


_adapters = AdaptersMap(psycopg.adapters)
_adapters.register_dumper(str, _Text)


class Database:
    """Connections to one database; every failure to reach it is `Unavailable`."""

    def __init__(self, pool: AsyncConnectionPool[Connection]) -> None:
        self._pool = pool

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """A connection in a transaction that commits at the end."""
        async with self._connection() as connection, connection.transaction():
            yield connection

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        try:
            async with self._pool.connection(timeout=CONNECT_TIMEOUT_S) as connection:
                yield connection
        except (psycopg.OperationalError, psycopg.InterfaceError, PoolTimeout) as error:
            raise Unavailable("database", f"PostgreSQL cannot be reached: {error}") from error

    async def fetch(self, query: str, parameters: Any = None) -> list[DictRow]:
        """Run one statement, which commits by itself, and return its rows: one round trip."""
        async with self._connection() as connection:
            cursor = await connection.execute(query.encode(), parameters)
            return await cursor.fetchall() if cursor.description else []

    async def healthy(self) -> bool:
        """Whether the database answers now."""
        try:
            await self.fetch("SELECT 1")
        except Unavailable:
            return False
        return True

    async def migrate(self) -> None:
        """Bring the schema up to date; processes that start together take turns."""
        async with self.transaction() as connection:
            await connection.execute("SELECT pg_advisory_xact_lock(%s)", [MIGRATION_LOCK])
            await connection.execute(
                "CREATE TABLE IF NOT EXISTS schema_migrations "
                "(name text PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())"
            )
            cursor = await connection.execute("SELECT name FROM schema_migrations")
            applied = {row["name"] for row in await cursor.fetchall()}
            for path in sorted(MIGRATIONS.glob("*.sql")):
                if path.name not in applied:
                    await connection.execute(path.read_bytes())
                    await connection.execute(
                        "INSERT INTO schema_migrations (name) VALUES (%s)", [path.name]
                    )


async def _check(connection: Connection) -> None:
    """Ask an idle connection only where the server has said something, if only that it is gone."""
    said = select.poll()
    said.register(connection.fileno(), select.POLLIN)
    if said.poll(0):
        await AsyncConnectionPool.check_connection(connection)


@asynccontextmanager
async def open_database(url: str, *, max_connections: int = 8) -> AsyncIterator[Database]:
    """Open the pool and migrate. Raises `Unavailable` when the first connection fails."""
    pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
        url,
        min_size=1,
        max_size=max_connections,
        open=False,
        check=_check,
        kwargs={
            "autocommit": True,
            "row_factory": dict_row,
            "context": _adapters,
            "connect_timeout": int(CONNECT_TIMEOUT_S),
            "options": f"-c statement_timeout={STATEMENT_TIMEOUT_MS} -c timezone=UTC",
        },
    )
    await pool.open()
    try:
        database = Database(pool)
        await database.migrate()
        yield database
    finally:
        await pool.close()
