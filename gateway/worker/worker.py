"""The worker: one loop for each handler and each kind of slot, until it is stopped."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import nats.errors
from nats.aio.msg import Msg
from prometheus_client import CollectorRegistry, Gauge

from gateway.adapters.background import end
from gateway.adapters.jetstream import JetStream
from gateway.registry import Function
from gateway.tracing import UNTRACED, Tracing
from gateway.worker.clock import tick
from gateway.worker.delivery import Delivery
from gateway.worker.handler import Handler
from gateway.worker.health import Answered, Infirmary, Probe, Tell
from gateway.worker.metrics import WorkMetrics
from gateway.worker.pull import Puller, ensure_durable

log = logging.getLogger(__name__)

PAUSE_S = 0.5


class Worker:
    """Runs the @consume handlers of some functions until it is stopped."""

    def __init__(
        self,
        functions: Sequence[Function],
        ports: Mapping[type, Any],
        stream: JetStream,
        probes: Mapping[str, Probe],
        *,
        scratch: Path,
        drain_s: float,
        answered: Mapping[str, Answered] | None = None,
        tell: Tell | None = None,
        metrics: WorkMetrics | None = None,
        tracing: Tracing = UNTRACED,
    ) -> None:
        metrics = metrics or WorkMetrics(CollectorRegistry())
        self._handlers = [
            Handler(function.name, consumer, ports, stream, scratch, metrics, tracing)
            for function in functions
            for consumer in function.consumers
        ]
        self._stream = stream
        self._infirmary = Infirmary(probes, answered, tell)
        metrics.watch(self._infirmary)
        self._drain_s = drain_s

    async def run(self, stop: asyncio.Event, ready: asyncio.Event | None = None) -> None:
        """Work until `stop`; then finish what is in hand, or give it back after `drain_s`."""
        running: set[asyncio.Task[None]] = set()
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._infirmary.close)
            loops: list[asyncio.Task[None]] = []
            for handler in self._handlers:
                for puller, slots, busy in await self._pullers(stack, handler):
                    pulling = self._loop(handler, puller, slots, busy, running)
                    loops.append(asyncio.create_task(pulling))
                if handler.consumer.policy.every_s is not None:
                    loops.append(asyncio.create_task(tick(handler.consumer, self._stream)))
            if ready is not None:
                ready.set()
            stopping = asyncio.create_task(stop.wait())
            await asyncio.wait({stopping, *loops}, return_when=asyncio.FIRST_COMPLETED)
            broken = [loop for loop in loops if loop.done()]
            await end(stopping, *loops)
            if running:
                await asyncio.wait(running, timeout=self._drain_s)
            await end(*running)
            for loop in broken:
                loop.result()  # a loop ends by itself only through a fault of ours

    async def _pullers(
        self, stack: AsyncExitStack, handler: Handler
    ) -> list[tuple[Puller, asyncio.Semaphore, Gauge]]:
        for source in handler.sources:
            await ensure_durable(self._stream.client, source, handler.consumer)
        policy = handler.consumer.policy
        kinds = [("ordinary", handler.sources, policy.concurrency)]
        if policy.express:
            kinds.append(("express", handler.sources[:1], policy.express))
        return [
            (
                await stack.enter_async_context(Puller(self._stream, sources).opened()),
                asyncio.Semaphore(slots),
                handler.metrics.busy[kind],
            )
            for kind, sources, slots in kinds
        ]

    async def _loop(
        self,
        handler: Handler,
        puller: Puller,
        slots: asyncio.Semaphore,
        busy: Gauge,
        running: set[asyncio.Task[None]],
    ) -> None:
        while True:
            await slots.acquire()
            messages: list[Msg] = []
            try:
                await self._infirmary.all_well(handler.backends)
                messages.append(await puller.next())
                policy = handler.consumer.policy
                await puller.fill(messages, policy.batch, policy.linger_s)
            except (nats.errors.Error, OSError) as error:
                log.warning("%s waits for NATS: %r", handler.name, error)
                await self._put_back(messages, slots)
                await asyncio.sleep(PAUSE_S)
                continue
            except BaseException:
                await self._put_back(messages, slots)
                raise
            work = handler.handle([Delivery(m) for m in messages], self._infirmary)
            task = asyncio.create_task(work)
            running.add(task)
            busy.inc()
            task.add_done_callback(running.discard)
            task.add_done_callback(lambda _: busy.dec())
            task.add_done_callback(lambda _: slots.release())

    async def _put_back(self, messages: list[Msg], slots: asyncio.Semaphore) -> None:
        slots.release()
        for message in messages:
            await Delivery(message).hand_back(self._stream)
