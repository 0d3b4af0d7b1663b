"""SPARE: where messages lie while nobody leads their queue, until somebody moves them on.

A leader's death leaves a stream without one for 4 to 9 s, which are constants of NATS. SPARE is
kept with its leader on another server, so that one death does not take both.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import nats.errors
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ClusterInfo, ConsumerConfig

from functions._kit.errors import TooLarge, Unavailable
from gateway.adapters.background import end
from gateway.adapters.jetstream import SPARE_STREAM, JetStream
from gateway.adapters.publishing import SPARE, SPARED
from gateway.adapters.reaching import UNREACHABLE, patiently, translated

log = logging.getLogger(__name__)

QUEUES = ("JOBS", "FRAMES")
DURABLE = "mover"
ACK_WAIT_S = 10.0
BATCH = 50
WAIT_S = 5.0
"""A pull that nothing answers is asked again: its consumer's leader may have died with it."""
PAUSE_S = 0.5
APART_EVERY_S = 5.0
ASK_S = 1.0
"""What is asked while a leader changes is never answered."""
STEP_DOWN = f"$JS.API.STREAM.LEADER.STEPDOWN.{SPARE_STREAM}"


class Spare:
    """Moves messages on, and keeps SPARE's leader apart from those of the queues."""

    def __init__(self, stream: JetStream) -> None:
        self._stream = stream
        self._js: JetStreamContext = stream.client.jetstream(timeout=ASK_S)

    async def ensure(self) -> None:
        """Make the durable consumer that all processes share. Raises `Unavailable`."""
        config = ConsumerConfig(
            durable_name=DURABLE,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=ACK_WAIT_S,
            max_deliver=-1,
        )
        await patiently(lambda: self._js.add_consumer(SPARE_STREAM, config))

    async def keep_moving(self) -> None:
        """Move what comes, for ever."""
        while True:
            try:
                pulling = await self._js.pull_subscribe_bind(DURABLE, SPARE_STREAM)
                try:
                    while True:
                        await self._move_some(pulling)
                finally:
                    if not self._stream.client.is_closed:
                        await pulling.unsubscribe()
            except UNREACHABLE as error:
                log.info("SPARE is asked again: %r", error)
            except Exception:
                log.exception("SPARE is asked again")  # nobody else would begin this anew
            await asyncio.sleep(PAUSE_S)

    async def keep_apart(self) -> None:
        """Look where the leaders are, for ever."""
        while True:
            try:
                await self.part()
            except Unavailable as error:
                log.info("where SPARE is led is not known: %r", error)
            # not all processes at once
            await asyncio.sleep(APART_EVERY_S * random.uniform(0.5, 1.5))  # noqa: S311

    async def part(self) -> None:
        """Hand SPARE to a server that leads fewer of the queues, where there is one.

        Raises `Unavailable` where one of them has no leader to tell of it.
        """
        with translated():
            spare, *queues = [
                (await self._js.stream_info(name)).cluster for name in (SPARE_STREAM, *QUEUES)
            ]
            better = _better(spare, Counter(c.leader for c in queues if c is not None))
            if better is None:
                return
            log.info("SPARE is handed to %s", better)
            ask = msgspec.json.encode({"placement": {"preferred": better}})
            await self._stream.client.request(STEP_DOWN, ask, timeout=ASK_S)

    async def _move_some(self, pulling: JetStreamContext.PullSubscription) -> None:
        try:
            messages = await pulling.fetch(BATCH, timeout=WAIT_S)
        except (TimeoutError, nats.errors.TimeoutError):
            return
        if not all(await asyncio.gather(*map(self._move, messages))):
            await asyncio.sleep(PAUSE_S)

    async def _move(self, message: Msg) -> bool:
        """Under its own message id: what its queue has taken after all is known there.

        What a stranger left here for no queue is ended: it would be tried again for ever.
        """
        subject = message.subject.removeprefix(SPARE)
        if not subject.startswith(SPARED):
            log.warning("a message on %s is dropped: no queue is meant", message.subject)
            await message.term()
            return True
        try:
            await self._stream.move(subject, message.data, dict(message.headers or {}))
        except (Unavailable, TooLarge) as error:
            log.info("a message on %s waits in SPARE: %s", subject, error)
            await message.nak(delay=PAUSE_S)
            return False
        await message.ack()
        return True


def _better(spare: ClusterInfo | None, led: Counter[str | None]) -> str | None:
    """The server that should lead SPARE in place of the one that does."""
    if spare is None or spare.leader is None:
        return None
    peers = [p.name for p in spare.replicas or [] if p.name and p.current and not p.offline]
    best = min(peers, key=lambda name: led[name], default=None)
    return best if best is not None and led[best] < led[spare.leader] else None


@asynccontextmanager
async def open_spare(stream: JetStream) -> AsyncIterator[Spare]:
    """SPARE is emptied and kept apart while the block runs. Raises `Unavailable`."""
    spare = Spare(stream)
    await spare.ensure()
    moving = asyncio.create_task(spare.keep_moving())
    parting = asyncio.create_task(spare.keep_apart())
    try:
        yield spare
    finally:
        await end(moving, parting)
