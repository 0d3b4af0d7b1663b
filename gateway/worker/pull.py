"""Taking messages from durable consumers: high bands first by weight, none starved, none lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import msgspec
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from functions._kit.consume import Consumer
from functions.tasks.contracts import HIGH, LOW, NORMAL
from gateway.adapters.jetstream import JetStream
from gateway.adapters.reaching import patiently
from gateway.worker.delivery import Delivery

WEIGHTS = {HIGH: 6, NORMAL: 3, LOW: 1}
"""Of ten jobs taken while all bands wait, so many come from each."""
POLL_S = 1.0
"""Redeliveries ring no bell; an idle worker looks for them this often."""
RUNG_S = 0.05
"""How long a pull waits for the message whose publishing rang the bell."""
ANSWER_S = 2.0
"""A pull that the server has not answered by then is asked again."""
MAX_ACK_PENDING = 10_000


@dataclass(slots=True)
class Source:
    """One durable consumer on the server."""

    stream: str
    durable: str
    subject: str
    weight: int
    band: str = "none"
    credit: int = 0


def sources_of(consumer: Consumer, function: str) -> list[Source]:
    """The durable consumers behind a handler: one, or one for each priority band."""
    stream = consumer.subject.partition(".")[0].upper()
    durable = function.replace(".", "_")
    if not consumer.policy.bands:
        return [Source(stream, durable, consumer.subject, 1)]
    return [
        Source(stream, f"{durable}_{band}", f"{consumer.subject}.{band}", weight, band)
        for band, weight in WEIGHTS.items()
    ]


async def ensure_durable(client: Client, source: Source, consumer: Consumer) -> None:
    """Create the durable consumer or bring it up to date; its place in the stream is kept.

    Deliveries are not limited here: the worker counts attempts itself, because a delivery that
    a sick backend wasted is none.
    """
    config = ConsumerConfig(
        durable_name=source.durable,
        filter_subject=source.subject,
        ack_policy=AckPolicy.EXPLICIT,
        deliver_policy=DeliverPolicy.ALL,
        ack_wait=consumer.policy.ack_wait_s,
        max_deliver=-1,
        max_ack_pending=MAX_ACK_PENDING,
    )
    await patiently(lambda: client.jetstream().add_consumer(source.stream, config))


class Puller:
    """Pulls for one slot at a time. Published messages ring a bell, so that idling is cheap."""

    def __init__(self, stream: JetStream, sources: Sequence[Source]) -> None:
        self._stream = stream
        self._client = stream.client
        self._sources = list(sources)
        self._inbox = stream.client.new_inbox()
        self._answers: Subscription
        self._rung = asyncio.Event()
        self._rung_by = ""
        self._asked = False

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Puller]:
        """Subscribe; at the end, hand back what arrived too late to be run."""
        self._answers = await self._client.subscribe(self._inbox)
        bells = [
            await self._client.subscribe(source.subject, cb=self._ring) for source in self._sources
        ]
        try:
            yield self
        finally:
            for bell in bells:
                await bell.unsubscribe()
            if self._asked and (late := await self._answer(RUNG_S * 2)) and not _status(late):
                await Delivery(late).hand_back(self._stream)
            while (late := self._arrived()) is not None:
                await Delivery(late).hand_back(self._stream)
            await self._answers.unsubscribe()

    async def next(self) -> Msg:
        """The next message, waited for without end."""
        while True:
            self._rung.clear()
            for source in self._in_turn():
                message = await self._ask(source, {"batch": 1, "no_wait": True}, ANSWER_S)
                if message is not None:
                    self._charge(source)
                    return message
            try:
                async with asyncio.timeout(POLL_S):
                    await self._rung.wait()
            except TimeoutError:
                continue
            message = await self._next_rung()
            if message is not None:
                return message

    async def fill(self, batch: list[Msg], size: int, linger_s: float) -> None:
        """Add messages up to `size`: those that are there, or come within `linger_s`."""
        if len(batch) >= size:
            return
        source = self._sources[0]
        ask: dict[str, object] = {"batch": size - len(batch)}
        if linger_s > 0:
            ask["expires"] = int(linger_s * 1e9)
        else:
            ask["no_wait"] = True
        await self._publish(source, ask)
        deadline = time.monotonic() + linger_s + ANSWER_S
        while len(batch) < size:
            message = await self._answer(deadline - time.monotonic())
            if message is None or _status(message):
                break
            batch.append(message)

    async def _next_rung(self) -> Msg | None:
        source = next((s for s in self._sources if s.subject == self._rung_by), self._sources[0])
        expires_ns = int(RUNG_S * 1e9)
        return await self._ask(source, {"batch": 1, "expires": expires_ns}, RUNG_S + ANSWER_S)

    async def _ring(self, message: Msg) -> None:
        self._rung_by = message.subject
        self._rung.set()

    def _in_turn(self) -> list[Source]:
        return sorted(self._sources, key=lambda s: s.credit + s.weight, reverse=True)

    def _charge(self, taken: Source) -> None:
        """Smooth weighted round robin (nginx's): the one that was served pays for all.

        Credit is bounded, so that a band that was empty for a day has no day's claim.
        """
        total = sum(source.weight for source in self._sources)
        for source in self._sources:
            source.credit = min(source.credit + source.weight, total)
        taken.credit -= total

    async def _ask(self, source: Source, ask: dict[str, object], timeout_s: float) -> Msg | None:
        if (late := self._arrived()) is not None:
            return late
        await self._publish(source, ask)
        message = await self._answer(timeout_s)
        return None if message is None or _status(message) else message

    async def _publish(self, source: Source, ask: dict[str, object]) -> None:
        self._asked = True
        await self._client.publish(
            f"$JS.API.CONSUMER.MSG.NEXT.{source.stream}.{source.durable}",
            msgspec.json.encode(ask),
            reply=self._inbox,
        )

    async def _answer(self, timeout_s: float) -> Msg | None:
        try:
            message = await self._answers.next_msg(timeout=max(timeout_s, 0.001))
        except (nats.errors.TimeoutError, TimeoutError):
            return None
        self._asked = False
        return message

    def _arrived(self) -> Msg | None:
        """A message that answered an earlier pull after its time."""
        queue = self._answers._pending_queue  # noqa: SLF001 - nats-py has no way to ask without waiting
        while not queue.empty():
            message: Msg = queue.get_nowait()
            self._answers._pending_size -= len(message.data)  # noqa: SLF001
            queue.task_done()
            if not _status(message):
                return message
        return None


def _status(message: Msg) -> str | None:
    """The server's word instead of a message: 404 none, 408 expired, 409 refused."""
    return message.headers.get("Status") if message.headers else None
