"""What lies in a database, for those who keep or restore it as a whole."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import sql

from functions._kit.errors import Unavailable
from gateway.adapters.tables.database import CONNECT_TIMEOUT_S, MIGRATIONS

COUNTED = ("alerts", "clients", "tasks")


async def row_counts(url: str) -> dict[str, int]:
    """Rows of the tables that are there. Raises `Unavailable`."""
    found: dict[str, int] = {}
    for name in COUNTED:
        if await _asked(url, sql.SQL("SELECT to_regclass({})").format(sql.Literal(name))) != [None]:
            query = sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(name))
            (count,) = await _asked(url, query)
            found[name] = count
    return found


async def applied_migrations(url: str) -> list[str]:
    """The names of those that the database has, in order. Raises `Unavailable`."""
    if await _asked(url, sql.SQL("SELECT to_regclass('schema_migrations')")) == [None]:
        return []
    query = sql.SQL("SELECT name FROM schema_migrations ORDER BY name")
    return [str(name) for name in await _asked(url, query)]


def known_migrations() -> list[str]:
    """Those of this version of Nereid."""
    return sorted(path.name for path in MIGRATIONS.glob("*.sql"))


async def _asked(url: str, query: sql.SQL | sql.Composed) -> list[Any]:
    """The first column of the answer."""
    try:
        async with await psycopg.AsyncConnection.connect(
            url, autocommit=True, connect_timeout=int(CONNECT_TIMEOUT_S)
        ) as connection:
            cursor = await connection.execute(query)
            return [row[0] for row in await cursor.fetchall()]
    except psycopg.OperationalError as error:
        raise Unavailable("database", f"PostgreSQL cannot be reached: {error}") from error
