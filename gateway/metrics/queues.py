"""How much waits for each function, and for how long: asked of JetStream when Prometheus asks."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import nats.js.errors
from nats.js.api import ConsumerInfo
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from functions._kit.errors import Unavailable
from functions._kit.letters import letter_subject
from functions._kit.messages import now
from gateway.adapters.jetstream import JetStream
from gateway.adapters.reaching import check_connected, translated
from gateway.metrics import catalogue
from gateway.registry import Function
from gateway.worker.pull import Source, sources_of

log = logging.getLogger(__name__)

DEADLINE_S = 2.0
"""A scrape waits no longer for JetStream; Prometheus itself gives up after 10 s."""
CACHE_S = 5.0
"""Several scrapers, and one who is impatient, cost JetStream no more than one."""
OTHER = "other"
"""The function of dead letters that no function of ours has written."""


@dataclass(frozen=True, slots=True)
class _Queue:
    waiting: int
    in_hand: int
    oldest: datetime | None


@dataclass(frozen=True, slots=True)
class _Found:
    queues: Mapping[tuple[str, str], _Queue]
    dead_letters: Mapping[str, int]


class Queues(Collector):
    """Queues by function and priority band, and dead letters by function."""

    def __init__(self, stream: JetStream, functions: Sequence[Function]) -> None:
        self._stream = stream
        self._js = stream.client.jetstream(timeout=DEADLINE_S)
        self._names = [function.name for function in functions if function.consumers]
        self._sources = {
            (function.name, source.band): source
            for function in functions
            for consumer in function.consumers
            for source in sources_of(consumer, function.name)
        }
        self._found: _Found | None = None
        self._asked_at = float("-inf")
        self._asking = asyncio.Lock()

    async def refresh(self) -> None:
        """Ask JetStream, unless that was done lately. Where it does not answer, nothing is told."""
        async with self._asking:
            if time.monotonic() < self._asked_at + CACHE_S:
                return
            try:
                async with asyncio.timeout(DEADLINE_S):
                    self._found = await self._ask()
            except (Unavailable, TimeoutError) as error:
                log.warning("the figures of queues are not known: %r", error)
                self._found = None
            self._asked_at = time.monotonic()

    def collect(self) -> Iterator[Metric]:
        """What was found last."""
        found = self._found
        yield catalogue.JETSTREAM_UP.read([((), float(found is not None))])
        queues = found.queues if found is not None else {}
        yield catalogue.QUEUE_WAITING.read((key, q.waiting) for key, q in queues.items())
        yield catalogue.QUEUE_IN_HAND.read((key, q.in_hand) for key, q in queues.items())
        yield catalogue.QUEUE_AGE.read((key, _age_s(q.oldest)) for key, q in queues.items())
        letters = found.dead_letters if found is not None else {}
        yield catalogue.DEAD_LETTERS.read(((name,), count) for name, count in letters.items())

    async def _ask(self) -> _Found:
        check_connected(self._stream.client)
        with translated():
            queues = await asyncio.gather(*(self._queue(s) for s in self._sources.values()))
            return _Found(dict(zip(self._sources, queues, strict=True)), await self._dead_letters())

    async def _queue(self, source: Source) -> _Queue:
        """One durable consumer, which is not there before the first worker has begun."""
        try:
            info = await self._js.consumer_info(source.stream, source.durable)
        except nats.js.errors.NotFoundError:
            info = None
        waiting = await self._stream.count(source.subject) if info is None else info.num_pending
        return _Queue(
            waiting=waiting or 0,
            in_hand=(info.num_ack_pending or 0) if info is not None else 0,
            oldest=await self._oldest(source, info) if waiting else None,
        )

    async def _oldest(self, source: Source, info: ConsumerInfo | None) -> datetime | None:
        """When the first message beyond those that were delivered was published."""
        taken = info.delivered.stream_seq if info is not None and info.delivered else 0
        try:
            message = await self._js.get_msg(
                source.stream, seq=taken + 1, subject=source.subject, next=True
            )
        except nats.js.errors.NotFoundError:  # it has been taken meanwhile
            return None
        return message.time

    async def _dead_letters(self) -> Mapping[str, int]:
        info = await self._js.stream_info("DEAD", subjects_filter=letter_subject(None))
        counts = dict.fromkeys([*self._names, OTHER], 0)
        for subject, count in (info.state.subjects or {}).items():
            name = subject.partition(".")[2]
            counts[name if name in counts else OTHER] += count
        return counts


def _age_s(oldest: datetime | None) -> float:
    """Clocks of machines differ a little: never below 0."""
    return 0.0 if oldest is None else max(0.0, (now() - oldest).total_seconds())
