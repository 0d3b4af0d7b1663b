"""NATS JetStream in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

import msgspec

from functions._kit.errors import QueueFull, Unavailable
from functions._kit.messages import now
from functions._kit.ports import Receipt, Record


@dataclass(slots=True)
class _Log:
    records: list[Record] = field(default_factory=list)
    sequences: dict[str, int] = field(default_factory=dict)
    """Message ids that were seen, which JetStream calls the duplicate window."""
    last_sequence: int = 0


class FakeStream:
    """Answers as `JetStream` does. Subjects of one first word are one stream: `jobs`, `events`."""

    def __init__(self, *, max_messages: Mapping[str, int] | None = None) -> None:
        """`max_messages` maps a stream's first word to its limit; beyond it, publishing fails."""
        self.sick = False
        self.max_messages = dict(max_messages or {})
        self._logs: dict[str, _Log] = {}
        self._news = asyncio.Event()

    async def publish(
        self,
        subject: str,
        message: msgspec.Struct | msgspec.Raw,
        *,
        message_id: str | None = None,
    ) -> Receipt:
        """See `Stream.publish`."""
        return await self.publish_bytes(
            subject, msgspec.json.encode(message), message_id=message_id
        )

    async def publish_bytes(
        self, subject: str, data: bytes, *, message_id: str | None = None
    ) -> Receipt:
        """`publish` for a message that is encoded already."""
        self.check_health()
        name = subject.partition(".")[0]
        log = self._logs.setdefault(name, _Log())
        if message_id is not None and message_id in log.sequences:
            return Receipt(log.sequences[message_id], duplicate=True)
        if len(log.records) >= self.max_messages.get(name, len(log.records) + 1):
            raise QueueFull("the queue is full; try again later")
        log.last_sequence += 1
        log.records.append(Record(log.last_sequence, subject, data, now()))
        if message_id is not None:
            log.sequences[message_id] = log.last_sequence
        self._news.set()
        self._news = asyncio.Event()
        return Receipt(log.last_sequence, duplicate=False)

    async def last(self, subject: str) -> Record | None:
        """See `Stream.last`."""
        self.check_health()
        found = self.records(subject)
        return found[-1] if found else None

    async def oldest(self, subject: str) -> Record | None:
        """See `Stream.oldest`."""
        self.check_health()
        found = self.records(subject)
        return found[0] if found else None

    async def follow(self, subject: str, *, after: int | None = 0) -> AsyncIterator[Record]:
        """See `Stream.follow`."""
        if after is None:
            after = self._logs.get(subject.partition(".")[0], _Log()).last_sequence
        while True:
            self.check_health()
            news = self._news
            for record in self.records(subject):
                if record.sequence > after:
                    after = record.sequence
                    yield record
            await news.wait()

    async def count(self, subject: str) -> int:
        """See `Stream.count`."""
        self.check_health()
        return len(self.records(subject))

    async def healthy(self) -> bool:
        """Whether it is not `sick`."""
        return not self.sick

    def records(self, subject: str) -> list[Record]:
        """What is stored on `subject`, oldest first; `*` stands for a word, a last `>` for more."""
        log = self._logs.get(subject.partition(".")[0], _Log())
        return [record for record in log.records if _matches(subject, record.subject)]

    def forget(self, subject: str) -> None:
        """Drop what is stored on `subject`, and the message ids of it, as age does."""
        log = self._logs.setdefault(subject.partition(".")[0], _Log())
        gone = {record.sequence for record in self.records(subject)}
        log.records = [r for r in log.records if r.sequence not in gone]
        log.sequences = {name: at for name, at in log.sequences.items() if at not in gone}

    def remove(self, name: str, sequence: int) -> bool:
        """Drop one message of the stream whose first word is `name`; its message id stays known."""
        log = self._logs.setdefault(name, _Log())
        kept = [record for record in log.records if record.sequence != sequence]
        removed = len(kept) < len(log.records)
        log.records = kept
        return removed

    def check_health(self) -> None:
        """Raise `Unavailable` while `sick`."""
        if self.sick:
            raise Unavailable("queue", "JetStream does not answer: the fake is sick")


def _matches(pattern: str, subject: str) -> bool:
    """Whether `subject` is one of `pattern`'s (NATS documentation, subject-based messaging)."""
    wanted, words = pattern.split("."), subject.split(".")
    if wanted[-1] == ">":
        wanted = wanted[:-1]
        if len(words) <= len(wanted):
            return False
        words = words[: len(wanted)]
    return len(wanted) == len(words) and all(
        want in {"*", word} for want, word in zip(wanted, words, strict=True)
    )
