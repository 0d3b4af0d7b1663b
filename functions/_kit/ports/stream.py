"""Durable messages, letters that could not be delivered, and values that all processes see."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import msgspec

from functions.tasks.contracts import DeadLetter


@dataclass(frozen=True, slots=True)
class Receipt:
    """The stream's answer to a publish: stored durably at `sequence`, or known already.

    The sequence is 0 where the message is safe, and on its way to a queue without a leader.
    """

    sequence: int
    duplicate: bool


@dataclass(frozen=True, slots=True)
class Record:
    """One message of a stream."""

    sequence: int
    subject: str
    data: bytes
    stored_at: datetime | None = None


class Stream(Protocol):
    """Durable messages: NATS JetStream."""

    async def publish(
        self,
        subject: str,
        message: msgspec.Struct | msgspec.Raw,
        *,
        message_id: str | None = None,
    ) -> Receipt:
        """Store `message`; return when it is durable. A repeated `message_id` stores nothing.

        Raises `QueueFull` when the stream is at its limit.
        """
        ...

    async def last(self, subject: str) -> Record | None:
        """The newest message on `subject`, or None."""
        ...

    async def oldest(self, subject: str) -> Record | None:
        """The oldest message that matches `subject`, with its `stored_at`, or None."""
        ...

    def follow(self, subject: str, *, after: int | None = 0) -> AsyncIterator[Record]:
        """All messages on `subject` with a sequence above `after`, then new ones as they come.

        `after` None begins with what is published from now on.
        """
        ...

    async def count(self, subject: str) -> int:
        """How many messages on `subject` the stream holds, those in hand included."""
        ...

    async def healthy(self) -> bool:
        """Whether the server answers now."""
        ...


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter, and the number by which it is asked for."""

    number: int
    content: DeadLetter


class DeadLetters(Protocol):
    """Messages that no handler could deal with, kept with their reason until somebody decides."""

    async def page(self, *, function: str | None, before: int | None, limit: int) -> list[Letter]:
        """Up to `limit` letters, newest first; of one function, and numbered below `before`."""
        ...

    async def get(self, number: int) -> Letter | None:
        """One letter, or None."""
        ...

    async def send_again(self, letter: Letter) -> None:
        """Publish the letter's payload where it came from, then remove the letter.

        A crash in between leaves both; sending again within the stream's memory of message ids
        publishes nothing new then. Raises `QueueFull`.
        """
        ...

    async def remove(self, number: int) -> bool:
        """Remove one letter; False where there was none."""
        ...

    async def purge(self, *, function: str | None) -> int:
        """Remove all letters (of one function); return how many."""
        ...


@dataclass(frozen=True, slots=True)
class Entry:
    """A value, and its revision, which `KeyValue.swap` compares."""

    value: bytes
    revision: int


class KeyValue(Protocol):
    """Small durable values by key, in buckets that exist from the start: JetStream key-value."""

    async def get(self, bucket: str, key: str) -> Entry | None:
        """The value now, or None."""
        ...

    async def put(self, bucket: str, key: str, value: bytes) -> int:
        """Write the value whatever is there; return its revision."""
        ...

    async def swap(self, bucket: str, key: str, value: bytes, *, revision: int) -> bool:
        """Write the value if `revision` is still the newest (0: if there is none); else False."""
        ...

    async def delete(self, bucket: str, key: str) -> None:
        """Remove the value; an absent one is no error."""
        ...

    def seen(self, bucket: str) -> Mapping[str, bytes]:
        """The whole bucket as this process sees it: a live copy, a moment old at most.

        For buckets that are watched (`cameras`, `capabilities`, `cooldowns`, `figures`, `models`,
        `quotas`, `rollouts`, `sickness`); KeyError for others.
        """
        ...
