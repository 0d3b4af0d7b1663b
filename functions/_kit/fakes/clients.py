"""The table of clients in memory."""

from __future__ import annotations

from dataclasses import replace

from functions._kit.errors import Conflict, Unavailable
from functions._kit.messages import now
from functions._kit.ports import Client


class FakeClientStore:
    """Answers as `ClientTable` does."""

    def __init__(self) -> None:
        self.sick = False
        self._clients: dict[str, Client] = {}

    async def find(self, client_id: str) -> Client | None:
        """See `ClientStore.find`."""
        self._check_health()
        return self._clients.get(client_id)

    async def find_by_key(self, lookup: bytes) -> Client | None:
        """See `ClientStore.find_by_key`."""
        self._check_health()
        return next((c for c in self._clients.values() if c.api_key_lookup == lookup), None)

    async def add(self, client: Client) -> None:
        """See `ClientStore.add`."""
        self._check_health()
        taken = client.api_key_lookup is not None and any(
            c.api_key_lookup == client.api_key_lookup for c in self._clients.values()
        )
        if taken or client.client_id in self._clients:
            raise Conflict(
                "client_exists",
                f"client {client.client_id!r}, or one with this API key, exists already",
                field="client_id",
            )
        self._clients[client.client_id] = replace(client, created_at=now())

    async def all(self) -> list[Client]:
        """See `ClientStore.all`."""
        self._check_health()
        return [client for _, client in sorted(self._clients.items())]

    async def remove(self, client_id: str) -> bool:
        """See `ClientStore.remove`."""
        self._check_health()
        return self._clients.pop(client_id, None) is not None

    def _check_health(self) -> None:
        if self.sick:
            raise Unavailable("database", "PostgreSQL cannot be reached: the fake is sick")
