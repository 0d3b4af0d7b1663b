"""What a function may ask for. The gateway hands in real servers, tests the fakes.

Every method raises `Unavailable` when its server cannot be reached, and nothing else for that.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import msgspec
from numpy.typing import NDArray

from functions.tasks.contracts import Status, TaskEvent, TaskRow


@dataclass(frozen=True, slots=True)
class Receipt:
    """The stream's answer to a publish: stored durably at `sequence`, or known already."""

    sequence: int
    duplicate: bool


@dataclass(frozen=True, slots=True)
class Record:
    """One message of a stream."""

    sequence: int
    subject: str
    data: bytes


class Stream(Protocol):
    """Durable messages: NATS JetStream."""

    async def publish(
        self, subject: str, message: msgspec.Struct, *, message_id: str | None = None
    ) -> Receipt:
        """Store `message`; return when it is durable. A repeated `message_id` stores nothing.

        Raises `QueueFull` when the stream is at its limit.
        """
        ...

    async def last(self, subject: str) -> Record | None:
        """The newest message on `subject`, or None."""
        ...

    def follow(self, subject: str, *, after: int = 0) -> AsyncIterator[Record]:
        """All messages on `subject` with a sequence above `after`, then new ones as they come."""
        ...

    async def healthy(self) -> bool:
        """Whether the server answers now."""
        ...


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What the store knows of an object."""

    key: str
    size_bytes: int
    content_type: str


class Objects(Protocol):
    """Files by key in one bucket: S3."""

    async def head(self, key: str) -> ObjectInfo | None:
        """The object's facts, or None where there is none."""
        ...

    async def download(self, key: str, path: Path, *, limit_bytes: int | None = None) -> ObjectInfo:
        """Stream the object into the file `path`.

        Raises `NotFound` (code `file_not_found`) and `TooLarge` (beyond `limit_bytes`).
        """
        ...

    async def upload(self, path: Path, key: str, content_type: str) -> None:
        """Stream the file `path` to `key`, whole or not at all."""
        ...

    async def put(self, key: str, chunks: AsyncIterator[bytes], content_type: str) -> int:
        """Stream `chunks` to `key`, whole or not at all; return the bytes written."""
        ...

    async def delete(self, key: str) -> None:
        """Remove the object; an absent one is no error."""
        ...

    async def presign(self, key: str, *, expires_s: int) -> str:
        """A URL that reads the object without credentials for `expires_s` seconds."""
        ...

    async def healthy(self) -> bool:
        """Whether the server answers now."""
        ...


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A loaded model, as its Triton configuration describes it."""

    name: str
    version: str
    parameters: dict[str, str]


class Inference(Protocol):
    """Models by name: NVIDIA Triton."""

    async def model(self, name: str) -> ServedModel:
        """The model's newest loaded version, loading it first where the server lets us.

        Raises `NotFound` (code `model_not_found`) where the repository has no such model.
        """
        ...

    async def infer(
        self, model: ServedModel, inputs: dict[str, NDArray[Any]], *, priority: int = 2
    ) -> dict[str, NDArray[Any]]:
        """Run one request. `priority` 1 is served before 2 before 3.

        Arrays go in and come out as the model's configuration says. Raises `JobFailed`
        (code `inference_refused`) where the server refuses the request itself.
        """
        ...

    async def model_names(self) -> frozenset[str]:
        """All models of the server's repository, loaded or not."""
        ...

    async def healthy(self) -> bool:
        """Whether the server is ready for requests now."""
        ...


@dataclass(frozen=True, slots=True)
class Page:
    """Tasks, newest first, and the cursor of the next page."""

    rows: list[TaskRow]
    next_cursor: str | None


class TaskStore(Protocol):
    """The record of every task: a table of PostgreSQL."""

    async def record(self, events: Sequence[TaskEvent]) -> None:
        """Bring rows up to date with `events`, in one statement.

        Rows only move forward; an event that is late or repeated changes nothing.
        """
        ...

    async def finished_by(self, event_ids: Sequence[str]) -> list[TaskRow]:
        """The rows that one of these final events has ended."""
        ...

    async def get(self, task_id: str) -> TaskRow | None:
        """One task, or None."""
        ...

    async def page(
        self,
        *,
        client_id: str | None,
        status: Status | None,
        workflow: str | None,
        cursor: str | None,
        limit: int,
    ) -> Page:
        """Tasks, newest first; of one client, or of all where `client_id` is None."""
        ...

    async def claim(
        self, client_id: str, key: str, fingerprint: bytes, task_id: str
    ) -> tuple[bytes, str]:
        """Take an Idempotency-Key for `task_id`, for 24 hours.

        Returns the fingerprint and task id that hold the key now: ours, or an earlier request's.
        """
        ...

    async def healthy(self) -> bool:
        """Whether the database answers now."""
        ...


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the operator allows; from the settings."""

    max_upload_bytes: int
    max_pixels: int
    allow_private_callbacks: bool
    webhook_secret: bytes
    url_lifetime_s: int = 24 * 3600


@dataclass(frozen=True, slots=True)
class Probes:
    """The health checks of everything that this process depends on, by name."""

    checks: Mapping[str, Callable[[], Awaitable[bool]]]
