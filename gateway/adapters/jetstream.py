"""The port `Stream` over NATS JetStream, and the streams that Nereid keeps there."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import msgspec
import nats
import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import (
    ConsumerConfig,
    DeliverPolicy,
    DiscardPolicy,
    RetentionPolicy,
    StorageType,
    StreamConfig,
)

from functions._kit.errors import QueueFull, Unavailable
from functions._kit.ports import Receipt, Record
from gateway.tracing import UNTRACED, Tracing

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 5.0
PUBLISH_TIMEOUT_S = 5.0
FOLLOW_HEARTBEAT_S = 2.0
"""A follower that misses two of these, or four at worst, asks for its consumer again."""
HOUR_S = 3600.0
FULL = {10077, 10047}
"""JetStream's error codes for a stream, or its store, at the limit."""

UNREACHABLE = (nats.errors.Error, nats.js.errors.Error, OSError, asyncio.TimeoutError)
"""What nats-py raises where the server is away, or does not do what it is asked."""


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """What the operator sets of the streams."""

    replicas: int = 1
    jobs_max_messages: int = 1_000_000
    frames_max_messages: int = 1_000_000


def stream_configs(limits: StreamLimits) -> list[StreamConfig]:
    """JOBS and FRAMES (each message once, refused when full), EVENTS (a week), DEAD (kept)."""
    return [
        _work_queue("JOBS", limits.jobs_max_messages, limits.replicas),
        _work_queue("FRAMES", limits.frames_max_messages, limits.replicas),
        StreamConfig(
            name="EVENTS",
            subjects=["events.>"],
            retention=RetentionPolicy.LIMITS,
            storage=StorageType.FILE,
            discard=DiscardPolicy.OLD,
            max_age=7 * 24 * HOUR_S,
            num_replicas=limits.replicas,
            duplicate_window=2 * HOUR_S,
            allow_direct=True,
        ),
        StreamConfig(
            name="DEAD",
            subjects=["dead.>"],
            retention=RetentionPolicy.LIMITS,
            storage=StorageType.FILE,
            num_replicas=limits.replicas,
            duplicate_window=HOUR_S,
            allow_direct=True,
        ),
    ]


def _work_queue(name: str, max_messages: int, replicas: int) -> StreamConfig:
    """Limited for each subject.

    So the next step of a task in work is never refused because new tasks fill the queue of the
    first one, and a camera that floods its queue leaves the others theirs.
    """
    return StreamConfig(
        name=name,
        subjects=[f"{name.lower()}.>"],
        retention=RetentionPolicy.WORK_QUEUE,
        storage=StorageType.FILE,
        discard=DiscardPolicy.NEW,
        max_msgs_per_subject=max_messages,
        discard_new_per_subject=True,
        num_replicas=replicas,
        duplicate_window=HOUR_S,
    )


async def connect(url: str, *, name: str) -> Client:
    """Connect for good: after the first success, a lost server is awaited for ever.

    Raises `Unavailable` where there is no first success within `CONNECT_TIMEOUT_S`.
    """

    async def on_error(error: Exception) -> None:
        log.warning("NATS: %r", error)

    connecting = nats.connect(
        url,
        name=name,
        max_reconnect_attempts=-1,
        reconnect_time_wait=0.25,
        ping_interval=5,
        max_outstanding_pings=2,
        error_cb=on_error,
        allow_reconnect=True,
    )
    try:
        # nats-py applies "for ever" to the first attempt as well
        return await asyncio.wait_for(connecting, CONNECT_TIMEOUT_S)
    except UNREACHABLE as error:
        raise Unavailable("queue", f"NATS cannot be reached: {error!r}") from error


async def ensure_streams(client: Client, limits: StreamLimits) -> None:
    """Create the streams, or bring them up to date; safe from several processes at once."""
    for config in stream_configs(limits):
        await ensure_stream(client, config)


async def ensure_stream(client: Client, config: StreamConfig) -> None:
    """Create one stream, or bring it up to date; safe from several processes at once."""
    js = client.jetstream()
    try:
        await js.add_stream(config)
    except nats.js.errors.BadRequestError:
        await js.update_stream(config)


def check_connected(client: Client) -> None:
    """Refuse now: nats-py would keep a message and send it after we said that it failed."""
    if not client.is_connected:
        raise Unavailable("queue", "NATS is not connected; it is being called again")


@contextmanager
def translated() -> Iterator[None]:
    """Whatever nats-py raises within is `Unavailable`."""
    try:
        yield
    except UNREACHABLE as error:
        raise Unavailable("queue", f"JetStream does not answer: {error!r}") from error


_SUBJECT = re.compile(r"[^\s\x00-\x1f\x7f]+")


class JetStream:
    """Durable publishing and reading. One for a process; `client` is shared with the worker."""

    def __init__(self, client: Client, tracing: Tracing = UNTRACED) -> None:
        self.client = client
        self._tracing = tracing
        self._js: JetStreamContext = client.jetstream(timeout=PUBLISH_TIMEOUT_S)

    async def publish(
        self, subject: str, message: msgspec.Struct, *, message_id: str | None = None
    ) -> Receipt:
        """See `Stream.publish`."""
        return await self.publish_bytes(
            subject, msgspec.json.encode(message), message_id=message_id
        )

    async def publish_bytes(
        self,
        subject: str,
        data: bytes,
        *,
        message_id: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> Receipt:
        """`publish` for a message that is encoded already."""
        check_subject(subject)
        check_connected(self.client)
        headers = dict(headers or {})
        if message_id is not None:
            headers["Nats-Msg-Id"] = message_id
        with self._tracing.publish(subject, message_id, len(data)) as trace:
            return await self._publish(subject, data, {**headers, **trace})

    async def _publish(self, subject: str, data: bytes, headers: dict[str, str]) -> Receipt:
        try:
            ack = await self._js.publish(subject, data, headers=headers or None)
        except nats.js.errors.APIError as error:
            if error.err_code in FULL or "maximum" in (error.description or ""):
                raise QueueFull("the queue is full; try again later") from error
            raise Unavailable("queue", f"JetStream refused the message: {error}") from error
        except UNREACHABLE as error:
            raise Unavailable("queue", f"JetStream does not answer: {error!r}") from error
        return Receipt(sequence=ack.seq, duplicate=bool(ack.duplicate))

    async def last(self, subject: str) -> Record | None:
        """See `Stream.last`."""
        check_connected(self.client)
        with translated():
            try:
                message = await self._js.get_last_msg(_stream_of(subject), subject, direct=False)
            except nats.js.errors.NotFoundError:
                return None
        return Record(message.seq or 0, subject, message.data or b"", message.time)

    async def oldest(self, subject: str) -> Record | None:
        """See `Stream.oldest`."""
        check_connected(self.client)
        with translated():
            try:
                found = await self._js.get_msg(_stream_of(subject), 1, subject, next=True)
            except nats.js.errors.NotFoundError:
                return None
        return Record(found.seq or 0, found.subject or "", found.data or b"", found.time)

    async def follow(self, subject: str, *, after: int | None = 0) -> AsyncIterator[Record]:
        """See `Stream.follow`. An ordered consumer: gaps are noticed and read again."""
        check_connected(self.client)
        stream = _stream_of(subject)
        with translated():
            if after is None:
                after = (await self._js.stream_info(stream)).state.last_seq
            subscription = await self._js.subscribe(
                subject,
                stream=stream,
                ordered_consumer=True,
                config=ConsumerConfig(
                    deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
                    opt_start_seq=after + 1,
                    idle_heartbeat=FOLLOW_HEARTBEAT_S,
                ),
            )
        # where it must ask again before anything has come, nats-py would ask for the whole past
        ordering = subscription._sub._jsi  # noqa: SLF001 - there is no other way to tell it
        if ordering is not None:
            ordering._sseq = max(ordering._sseq, after)  # noqa: SLF001
        try:
            async for message in subscription.messages:
                metadata = message.metadata
                if metadata.sequence.stream > after:
                    after = metadata.sequence.stream
                    yield Record(after, message.subject, message.data, metadata.timestamp)
        finally:
            if not self.client.is_closed:
                await subscription.unsubscribe()

    async def count(self, subject: str) -> int:
        """See `Stream.count`. One request, answered from the stream's index of subjects."""
        check_connected(self.client)
        with translated():
            info = await self._js.stream_info(_stream_of(subject), subjects_filter=subject)
        return sum((info.state.subjects or {}).values())

    async def healthy(self) -> bool:
        """See `Stream.healthy`."""
        if not self.client.is_connected:
            return False
        try:
            await self._js.account_info()
        except UNREACHABLE:
            return False
        return True


def check_subject(subject: str) -> None:
    """Raise ValueError for a subject that would break the protocol's line."""
    if not _SUBJECT.fullmatch(subject):
        raise ValueError(f"{subject[:100]!r} is no subject: it holds spaces or control characters")


def _stream_of(subject: str) -> str:
    check_subject(subject)
    names = {"jobs": "JOBS", "frames": "FRAMES", "events": "EVENTS", "dead": "DEAD"}
    return names[subject.partition(".")[0]]
