"""Who may call."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """A program that may call Nereid. Hashes are argon2; the lookup is a keyed digest."""

    client_id: str
    secret_hash: str
    scopes: frozenset[str]
    api_key_lookup: bytes | None = None
    api_key_hash: str | None = None
    created_at: datetime | None = None


class ClientStore(Protocol):
    """Who may call: a table of PostgreSQL."""

    async def find(self, client_id: str) -> Client | None:
        """The client of this id."""
        ...

    async def find_by_key(self, lookup: bytes) -> Client | None:
        """The client whose API key has this lookup digest."""
        ...

    async def add(self, client: Client) -> None:
        """Store a new client. Raises `Conflict` (code `client_exists`)."""
        ...

    async def all(self) -> list[Client]:
        """All clients, by id."""
        ...

    async def remove(self, client_id: str) -> bool:
        """Remove a client; False where there was none."""
        ...


class TokenIssuer(Protocol):
    """Makes bearer tokens that every gateway with the same secret believes."""

    lifetime_s: int

    def issue(self, client: Client) -> str:
        """A signed token for the client and its scopes."""
        ...
