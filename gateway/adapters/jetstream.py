"""The port `Stream` over NATS JetStream, and the streams that Nereid keeps there."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass

import msgspec
import nats
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

from functions._kit.errors import Unavailable
from functions._kit.ports import Receipt, Record
from gateway.adapters.publishing import MESSAGE_ID, SPARE, Publisher, check_subject, stream_of
from gateway.adapters.reaching import (
    ASK_TIMEOUT_S,
    UNREACHABLE,
    check_connected,
    patiently,
    translated,
)
from gateway.tls import TlsFiles, client_context
from gateway.tracing import UNTRACED, Tracing

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 5.0
PING_S = 1
"""A server that stands still is left after three or four of these, before callers give up."""
FOLLOW_HEARTBEAT_S = 2.0
"""A follower that misses two of these, or four at worst, asks for its consumer again."""
PROBE_S = 2.0
HOUR_S = 3600.0
SPARE_STREAM = SPARE.rstrip(".").upper()
SPARE_MAX_MESSAGES = 100_000
SPARE_WINDOW_S = 120.0
"""Well within that of the queues: what SPARE takes for known must be known there, too."""
WRITTEN = ("JOBS", "FRAMES", "EVENTS", "DEAD", "KV_cooldowns", "KV_quotas")
"""What workers write to."""
IN_USE = 10058
"""JetStream's error code for a stream that is there with other settings."""


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """What the operator sets of the streams."""

    replicas: int = 1
    jobs_max_messages: int = 1_000_000
    frames_max_messages: int = 1_000_000


def stream_configs(limits: StreamLimits) -> list[StreamConfig]:
    """JOBS and FRAMES (each message once, refused when full), EVENTS (a week), DEAD (kept).

    In a cluster SPARE, too, which takes the place of a queue that has no leader.
    """
    spare = _work_queue(SPARE_STREAM, SPARE_MAX_MESSAGES, limits.replicas)
    spare.duplicate_window = SPARE_WINDOW_S
    return [
        *([spare] if limits.replicas > 1 else []),
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


async def connect(url: str, *, name: str, tls: TlsFiles | None = None) -> Client:
    """Connect for good: after the first success, a lost server is awaited for ever.

    `url` may name several servers, with commas in between; `tls` says whom to believe where it
    says tls://. Raises `Unavailable` where there is no first success within `CONNECT_TIMEOUT_S`.
    """

    async def on_error(error: Exception) -> None:
        log.warning("NATS: %r", error)

    servers, credentials = servers_of(url)
    connecting = nats.connect(
        servers,
        name=name,
        max_reconnect_attempts=-1,
        reconnect_time_wait=0.25,
        ping_interval=PING_S,
        max_outstanding_pings=2,
        error_cb=on_error,
        allow_reconnect=True,
        **credentials,
        tls=client_context(tls) if tls else None,
    )
    try:
        # nats-py applies "for ever" to the first attempt as well
        return await asyncio.wait_for(connecting, CONNECT_TIMEOUT_S)
    except UNREACHABLE as error:
        raise Unavailable("queue", f"NATS cannot be reached: {error!r}") from error


def servers_of(url: str) -> tuple[list[str], dict[str, str]]:
    """The addresses in `url`, and the credentials, as nats-py takes them.

    Credentials stand apart, since servers that the cluster tells of later come without.
    """
    addresses: list[str] = []
    credentials: dict[str, str] = {}
    for part in filter(None, map(str.strip, url.split(","))):
        scheme, slashes, rest = part.rpartition("://")
        user, _, address = rest.rpartition("@")
        addresses.append(f"{scheme}{slashes}{address}")
        name, colon, password = user.partition(":")
        if user:
            credentials = {"user": name, "password": password} if colon else {"token": name}
    return addresses, credentials


async def ensure_streams(client: Client, limits: StreamLimits) -> None:
    """Create the streams, or bring them up to date; safe from several processes at once."""
    for config in stream_configs(limits):
        await ensure_stream(client, config)


async def ensure_stream(client: Client, config: StreamConfig) -> None:
    """Create one stream, or bring it up to date; safe from several processes at once.

    Raises `Unavailable` as `patiently` does.
    """
    js = client.jetstream()

    async def ensure() -> None:
        try:
            await js.add_stream(config)
        except nats.js.errors.BadRequestError as error:
            if error.err_code != IN_USE:
                raise
            await js.update_stream(config)

    await patiently(ensure)


class JetStream:
    """Durable publishing and reading. One for a process; `client` is shared with the worker."""

    def __init__(
        self, client: Client, tracing: Tracing = UNTRACED, *, clustered: bool = False
    ) -> None:
        """`clustered`: the streams have copies, and SPARE is there."""
        self.client = client
        self._tracing = tracing
        self._js: JetStreamContext = client.jetstream(timeout=ASK_TIMEOUT_S)
        self._clustered = clustered
        self._publisher = Publisher(client, clustered=clustered)

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
        self,
        subject: str,
        data: bytes,
        *,
        message_id: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> Receipt:
        """`publish` for a message that is encoded already."""
        check_subject(subject)
        headers = dict(headers or {})
        if message_id is not None:
            headers[MESSAGE_ID] = message_id
        with self._tracing.publish(subject, message_id, len(data)) as trace:
            return await self._publisher.publish(subject, data, {**headers, **trace})

    async def move(self, subject: str, data: bytes, headers: dict[str, str]) -> None:
        """Store what SPARE held where it belongs. Raises `QueueFull` and `Unavailable`."""
        await self._publisher.move(subject, data, headers)

    async def last(self, subject: str) -> Record | None:
        """See `Stream.last`."""
        check_connected(self.client)
        with translated():
            try:
                message = await self._js.get_last_msg(stream_of(subject), subject, direct=False)
            except nats.js.errors.NotFoundError:
                return None
        return Record(message.seq or 0, subject, message.data or b"", message.time)

    async def oldest(self, subject: str) -> Record | None:
        """See `Stream.oldest`."""
        check_connected(self.client)
        with translated():
            try:
                found = await self._js.get_msg(stream_of(subject), 1, subject, next=True)
            except nats.js.errors.NotFoundError:
                return None
        return Record(found.seq or 0, found.subject or "", found.data or b"", found.time)

    async def follow(self, subject: str, *, after: int | None = 0) -> AsyncIterator[Record]:
        """See `Stream.follow`. An ordered consumer: gaps are noticed and read again."""
        check_connected(self.client)
        stream = stream_of(subject)
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
            info = await self._js.stream_info(stream_of(subject), subjects_filter=subject)
        return sum((info.state.subjects or {}).values())

    async def healthy(self) -> bool:
        """See `Stream.healthy`. In a cluster: whether there is a place for a job."""
        if not self.client.is_connected:
            return False
        if not self._clustered:
            return await self._answers(self._js.account_info())
        return any(await self._led("JOBS", SPARE_STREAM))

    async def whole(self) -> bool:
        """Whether all that workers write to can be written to: in a cluster, whether it is led."""
        if not self._clustered:
            return await self.healthy()
        return self.client.is_connected and all(await self._led(*WRITTEN))

    async def _led(self, *names: str) -> list[bool]:
        """Only a stream's leader answers for it."""
        asking = (self._answers(self._js.stream_info(name)) for name in names)
        return await asyncio.gather(*asking)

    async def _answers(self, asking: Awaitable[object]) -> bool:
        try:
            await asyncio.wait_for(asking, PROBE_S)
        except UNREACHABLE:
            return False
        return True
