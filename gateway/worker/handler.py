"""One @consume handler: runs it on what came, and turns its outcome into an acknowledgement."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from functions._kit.consume import Consumer, Envelope, Run
from functions._kit.errors import (
    JobFailed,
    NereidError,
    OutOfMemory,
    QueueFull,
    RequestError,
    RetryJob,
    StillLoading,
    Unavailable,
)
from functions._kit.letters import MAX_PAYLOAD_BYTES
from functions._kit.messages import NO_JSON, now
from functions._kit.ports import AlertStore, Inference, ModelServer, Objects, TaskStore
from functions.tasks.contracts import DeadLetter, Job
from gateway.adapters.jetstream import JetStream
from gateway.tracing import Tracing
from gateway.worker.delivery import Delivery
from gateway.worker.health import Infirmary
from gateway.worker.metrics import End, WorkMetrics
from gateway.worker.pull import sources_of
from gateway.worker.tasks import Attempt, TaskOver, scratch_folder

T = TypeVar("T")

log = logging.getLogger(__name__)

HEALTHY_FAILURES = 5
"""A job that finds its backend unavailable so often, while the probe finds it well, is at fault
itself: its attempt counts."""
LOSSES = 5
"""So many deliveries beyond a job's attempts may end without a word: not each is a worker that it
killed. Workers die of other things, and a new leader of a consumer may not know who works."""
BACKENDS: dict[type, str] = {
    Inference: "triton",
    ModelServer: "triton",
    Objects: "s3",
    TaskStore: "database",
    AlertStore: "database",
}
"""Whose sickness keeps a handler that asks for the port from taking messages."""
OF_THE_MESSAGE = (Run, Envelope)
"""What a handler may ask for that is no port."""


class Handler:
    """One @consume handler with everything it needs to run."""

    def __init__(
        self,
        name: str,
        consumer: Consumer,
        ports: Mapping[type, Any],
        stream: JetStream,
        scratch: Path,
        metrics: WorkMetrics,
        tracing: Tracing,
    ) -> None:
        self.name = name
        self.consumer = consumer
        self.sources = sources_of(consumer, name)
        self.metrics = metrics.of(name, consumer)
        self._tracing = tracing
        self._stream = stream
        self._scratch = scratch
        self._decode = msgspec.json.Decoder(consumer.message_type).decode
        self._is_task = isinstance(consumer.message_type, type) and issubclass(
            consumer.message_type, Job
        )
        self._own = {n: w for n, w in consumer.wants.items() if w in OF_THE_MESSAGE}
        asked = {n: w for n, w in consumer.wants.items() if w not in OF_THE_MESSAGE}
        missing = [want for want in asked.values() if want not in ports]
        if missing:
            raise TypeError(f"{name} asks for {missing}, which no adapter provides")
        self.backends = frozenset(BACKENDS[want] for want in asked.values() if want in BACKENDS)
        self._ports = {name: ports[want] for name, want in asked.items()}

    async def handle(self, deliveries: list[Delivery], infirmary: Infirmary) -> None:
        """Run the handler on one message or one batch and end each delivery."""
        self.metrics.taken(deliveries)
        async with AsyncExitStack() as stack:
            for delivery in deliveries:
                await stack.enter_async_context(delivery.leased(self.consumer.policy.ack_wait_s))
            try:
                with self._tracing.processing(self.name, deliveries):
                    await self._handle(deliveries, infirmary)
            except asyncio.CancelledError:
                for delivery in deliveries:
                    if await asyncio.shield(delivery.hand_back(self._stream)):
                        self.metrics.ended(delivery, "handed_back")
                raise
            except Exception:
                log.exception("%s: an error of the worker itself", self.name)
                for delivery in deliveries:
                    await self._stumbled(delivery)

    async def _stumbled(self, delivery: Delivery) -> None:
        """Give back what made the worker itself fail; put it away when that goes on."""
        if delivery.attempt >= self.consumer.policy.attempts:
            why = "the worker itself fails on this message; its log says how"
            try:
                await self._bury(delivery, "internal_error", why)
            except Exception:
                log.exception("%s: a dead letter was not written", self.name)
            else:
                await self._done(delivery, "dead_lettered")
                return
        await self._retry(delivery)

    async def _handle(self, deliveries: list[Delivery], infirmary: Infirmary) -> None:
        readable: list[tuple[Delivery, Any]] = []
        for delivery in deliveries:
            try:
                readable.append((delivery, self._decode(delivery.data)))
            except NO_JSON as error:
                bury = partial(self._bury, delivery, "unreadable", str(error))
                await self._through_sickness(infirmary, bury)
                self._tracing.failed(delivery, "unreadable")
                await self._done(delivery, "dead_lettered")
        if not readable:
            return
        if self.consumer.policy.batch > 1:
            await self._batch(readable, infirmary)
        else:
            await self._single(*readable[0], infirmary)

    async def _batch(self, readable: list[tuple[Delivery, Any]], infirmary: Infirmary) -> None:
        """All at once; where that fails, one by one, so that a bad message holds back no other."""
        messages = [message for _, message in readable]
        try:
            await self._through_sickness(infirmary, lambda: self._call(messages))
        except Exception as error:  # noqa: BLE001 - whatever a handler raises ends the attempt
            failure = _log_failure(self.name, error)
            if len(readable) == 1:
                await self._failed(*readable[0], failure, infirmary)
                return
            for one in readable:
                await self._batch([one], infirmary)
        else:
            for delivery, _ in readable:
                await self._done(delivery)
            self.metrics.recorded(messages)

    async def _single(self, delivery: Delivery, message: Any, infirmary: Infirmary) -> None:
        try:
            await self._through_sickness(
                infirmary, lambda: self._attempt(delivery, message, infirmary)
            )
        except TaskOver:
            log.info("%s: task %s is over already", self.name, message.task.task_id)
            await self._done(delivery, "over")
        except Exception as error:  # noqa: BLE001 - whatever a handler raises ends its attempt
            await self._failed(delivery, message, _log_failure(self.name, error), infirmary)
        else:
            await self._done(delivery)

    async def _failed(
        self, delivery: Delivery, message: Any, failure: NereidError, infirmary: Infirmary
    ) -> None:
        """Give the message back for another attempt, or give it up for good."""
        self._tracing.failed(delivery, failure.code)
        permanent = isinstance(failure, JobFailed | RequestError)
        if not permanent and delivery.attempt < self.consumer.policy.attempts:
            await self._retry(delivery)
            return
        bury = not (permanent and self._is_task)
        await self._through_sickness(
            infirmary, lambda: self._give_up(delivery, message, failure, bury=bury)
        )
        await self._done(delivery, "dead_lettered" if bury else "failed")

    async def _retry(self, delivery: Delivery) -> None:
        await delivery.retry(self.consumer.policy.backoff_after(delivery.attempt))
        self.metrics.ended(delivery, "retried")

    async def _done(self, delivery: Delivery, outcome: End = "done") -> None:
        await delivery.done()
        self.metrics.ended(delivery, outcome)

    async def _attempt(self, delivery: Delivery, message: Any, infirmary: Infirmary) -> None:
        """Run the handler. A task's answer outlives a sick queue: only the telling is repeated."""
        lost = delivery.attempt - 1
        if lost >= self.consumer.policy.attempts + LOSSES:
            raise RetryJob("worker_lost", f"{lost} workers died or were lost with this job")
        envelope = Envelope(delivery.subject, delivery.attempt, delivery.stored_at)
        if not self._is_task:
            await self._call(message, envelope)
            return
        async with scratch_folder(self._scratch) as folder:
            self.metrics.began(message, delivery.attempt)
            attempt = Attempt(message, delivery.attempt, folder, self._stream)
            call = partial(self._call, message, envelope, attempt)
            answer = await attempt.run_until_over(lambda: self._through_sickness(infirmary, call))
            await self._through_sickness(infirmary, lambda: attempt.finish(answer))

    async def _call(
        self, message: Any, envelope: Envelope | None = None, run: Run | None = None
    ) -> Any:
        given: dict[type, Any] = {Envelope: envelope, Run: run}
        own = {name: given[want] for name, want in self._own.items()}
        try:
            with self.metrics.run():
                async with asyncio.timeout(self.consumer.policy.timeout_s):
                    return await self.consumer.handler(message, **self._ports, **own)
        except TimeoutError as error:
            raise RetryJob(
                "too_slow", f"not done within {self.consumer.policy.timeout_s} s"
            ) from error

    async def _through_sickness(self, infirmary: Infirmary, work: Callable[[], Awaitable[T]]) -> T:
        """Run `work`, again and again while a backend is away: that spends no attempt.

        Raises `RetryJob` where the backend is well and fails this job alone: it answers its
        probe, and, where it is short of memory, others get their answers meanwhile. A full queue
        fails nobody alone: it is full for all, and has room again when others are done. Raises what
        ends the load of a model that the job waits for.
        """
        failures = 0
        while True:
            answers = infirmary.answers()
            try:
                try:
                    return await work()
                except StillLoading as error:  # holds whoever needs that model, and nobody else
                    log.info("%s: %s", self.name, error.message)
                    await error.loaded()
            except Unavailable as error:
                alone = await infirmary.until_well(error)
                if isinstance(error, OutOfMemory):
                    alone = infirmary.answers() != answers
                elif isinstance(error, QueueFull):
                    alone = False
                failures = failures + 1 if alone else 0
                if failures >= HEALTHY_FAILURES:
                    raise RetryJob(error.code, error.message) from error

    async def _give_up(
        self, delivery: Delivery, message: Any, failure: NereidError, *, bury: bool
    ) -> None:
        """Tell the task's end; what ran out of attempts goes to the dead letters first."""
        if bury:
            await self._bury(delivery, failure.code, failure.message)
        if self._is_task:
            attempts = min(delivery.attempt, self.consumer.policy.attempts)
            attempt = Attempt(message, attempts, self._scratch, self._stream)
            await attempt.fail(failure.code, failure.message)

    async def _bury(self, delivery: Delivery, code: str, message: str) -> None:
        letter = DeadLetter(
            subject=delivery.subject,
            function=self.name,
            code=code,
            message=message,
            attempts=delivery.attempt,
            at=now(),
            payload=delivery.data[:MAX_PAYLOAD_BYTES],
        )
        await self._stream.publish(
            f"dead.{self.name}", letter, message_id=f"{self.name}:{delivery.sequence}"
        )


def _log_failure(name: str, error: Exception) -> NereidError:
    """Log `error`; return it as one of ours, which a stranger's error is not."""
    if isinstance(error, NereidError):
        log.warning("%s: %s: %s", name, error.code, error.message)
        return error
    log.error("%s failed", name, exc_info=error)
    return RetryJob("internal_error", f"an error of ours: {type(error).__name__}")
