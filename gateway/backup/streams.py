"""Messages out of JetStream and back, with their headers and ids."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from itertools import islice

import nats.js.errors
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from gateway.adapters.jetstream import StreamLimits, stream_configs
from gateway.adapters.keyvalue import BUCKETS
from gateway.adapters.reaching import translated
from gateway.backup.manifest import Position
from gateway.backup.messages import Stored

AT_ONCE = 200
TIMEOUT_S = 30.0
PASSING_S = 60.0
"""Values that end by themselves within this are not worth keeping."""
QUEUES = ("JOBS", "FRAMES")
FACTS = "EVENTS"


def kept_streams() -> list[str]:
    """The streams of a backup: queues first, then facts, then all others."""
    others = [
        name for config in stream_configs(StreamLimits()) if (name := config.name) is not None
    ]
    buckets = [f"KV_{name}" for name, plan in BUCKETS.items() if plan.lifetime_s > PASSING_S]
    first = [*QUEUES, FACTS]
    return first + [name for name in others if name not in first] + buckets


async def last_sequence(js: JetStreamContext, stream: str) -> int:
    """The stream's newest message; 0 where there is no such stream."""
    try:
        return (await js.stream_info(stream)).state.last_seq
    except nats.js.errors.NotFoundError:
        return 0


async def read(
    js: JetStreamContext, stream: str, *, end: int | None = None
) -> AsyncIterator[Stored]:
    """Every message by ascending sequence, up to `end` or until there is no newer one.

    What is published while this reads is read, too, if it still lies there when its turn comes: a
    job's successor is published before the job is acknowledged, so one of them is always found.
    """
    at = 1
    while True:
        found = await _next(js, stream, at)
        if found is None or (end is not None and found.sequence > end):
            return
        yield found
        at = found.sequence + 1
        last = await last_sequence(js, stream)
        until = min(last if end is None else min(last, end), at + AT_ONCE - 1)
        near = await asyncio.gather(*(_get(js, stream, n) for n in range(at, until + 1)))
        for message in near:
            if message is not None:
                yield message
        at = max(at, until + 1)


async def _next(js: JetStreamContext, stream: str, sequence: int) -> Stored | None:
    """The first message at `sequence` or after it."""
    try:
        return _stored(await js.get_msg(stream, sequence, ">", next=True))
    except nats.js.errors.NotFoundError:
        return None


async def _get(js: JetStreamContext, stream: str, sequence: int) -> Stored | None:
    try:
        return _stored(await js.get_msg(stream, sequence))
    except nats.js.errors.NotFoundError:
        return None


def _stored(message: object) -> Stored:
    headers = getattr(message, "headers", None) or {}
    return Stored(
        int(getattr(message, "seq", 0) or 0),
        str(getattr(message, "subject", "")),
        {str(name): str(value) for name, value in headers.items()},
        getattr(message, "data", None) or b"",
    )


async def write(js: JetStreamContext, messages: Iterable[Stored]) -> AsyncIterator[Stored]:
    """Publish in order, ids included; yield each that was kept: not those whose id is known.

    Raises `Unavailable`.
    """
    source = iter(messages)
    with translated():
        while batch := list(islice(source, AT_ONCE)):
            # sent in order over one connection, and stored in that order
            receipts = await asyncio.gather(
                *(js.publish(m.subject, m.data, headers=_lasting(m.headers)) for m in batch)
            )
            for message, receipt in zip(batch, receipts, strict=True):
                if not receipt.duplicate:
                    yield message


def _lasting(headers: dict[str, str]) -> dict[str, str] | None:
    """Without what was asked of the stream as it was then: a compare-and-swap has been done."""
    return {n: v for n, v in headers.items() if not n.startswith("Nats-Expected-")} or None


async def positions(js: JetStreamContext) -> list[Position]:
    """How far each recorder of EVENTS is."""
    try:
        found = await js.consumers_info(FACTS)
    except nats.js.errors.NotFoundError:
        return []
    return [
        Position(
            name=info.config.durable_name,
            subject=info.config.filter_subject or ">",
            sequence=info.ack_floor.stream_seq,
        )
        for info in found
        if info.config.durable_name and info.ack_floor is not None
    ]


async def advance(client: Client, position: Position, count: int) -> None:
    """Let a recorder begin behind its first `count` messages. The worker sets all else of it."""
    js = client.jetstream(timeout=TIMEOUT_S)
    with translated():
        await js.add_consumer(
            FACTS,
            ConsumerConfig(
                durable_name=position.name,
                filter_subject=position.subject,
                ack_policy=AckPolicy.EXPLICIT,
                deliver_policy=DeliverPolicy.ALL,
                max_deliver=-1,
                max_ack_pending=10_000,
            ),
        )
        pulled = await js.pull_subscribe_bind(position.name, FACTS)
        while count:
            messages = await pulled.fetch(min(count, AT_ONCE), timeout=TIMEOUT_S)
            await asyncio.gather(*(message.ack_sync() for message in messages))
            count -= len(messages)
        await pulled.unsubscribe()


def matches(subject: str, wanted: str) -> bool:
    """Whether NATS's pattern `wanted` takes `subject`."""
    given, pattern = subject.split("."), wanted.split(".")
    if pattern[-1] == ">":
        return len(given) >= len(pattern) and _each(given, pattern[:-1])
    return len(given) == len(pattern) and _each(given, pattern)


def _each(given: list[str], pattern: list[str]) -> bool:
    return all(p in {"*", g} for g, p in zip(given, pattern, strict=False))
