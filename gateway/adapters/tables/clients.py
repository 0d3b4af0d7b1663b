"""The port `ClientStore`."""

from __future__ import annotations

from typing import Any

from functions._kit.errors import Conflict
from functions._kit.ports import Client
from gateway.adapters.tables.database import Database


class ClientTable:
    """One row a client."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, client_id: str) -> Client | None:
        """See `ClientStore.find`."""
        return _first(
            await self._database.fetch("SELECT * FROM clients WHERE client_id = %s", [client_id])
        )

    async def find_by_key(self, lookup: bytes) -> Client | None:
        """See `ClientStore.find_by_key`."""
        return _first(
            await self._database.fetch("SELECT * FROM clients WHERE api_key_lookup = %s", [lookup])
        )

    async def add(self, client: Client) -> None:
        """See `ClientStore.add`."""
        added = await self._database.fetch(
            """INSERT INTO clients (client_id, secret_hash, api_key_lookup, api_key_hash, scopes)
               VALUES (%s, %s, %s, %s, %s) ON CONFLICT DO NOTHING RETURNING client_id""",
            [
                client.client_id,
                client.secret_hash,
                client.api_key_lookup,
                client.api_key_hash,
                sorted(client.scopes),
            ],
        )
        if not added:
            raise Conflict(
                "client_exists",
                f"client {client.client_id!r}, or one with this API key, exists already",
                field="client_id",
            )

    async def all(self) -> list[Client]:
        """See `ClientStore.all`."""
        rows = await self._database.fetch("SELECT * FROM clients ORDER BY client_id")
        return [_client(row) for row in rows]

    async def remove(self, client_id: str) -> bool:
        """See `ClientStore.remove`."""
        return bool(
            await self._database.fetch(
                "DELETE FROM clients WHERE client_id = %s RETURNING client_id", [client_id]
            )
        )


def _first(rows: list[dict[str, Any]]) -> Client | None:
    return _client(rows[0]) if rows else None


def _client(row: dict[str, Any]) -> Client:
    return Client(**{**row, "scopes": frozenset(row["scopes"])})
