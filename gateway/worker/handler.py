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

from functions._kit.consume import Consumer, Run
from functions._kit.errors import JobFailed, NereidError, RequestError, RetryJob, Unavailable
from functions._kit.messages import now
from functions._kit.ports import Inference, Objects, TaskStore
from functions.tasks.contracts import DeadLetter, Job
from gateway.adapters.jetstream import JetStream
from gateway.worker.delivery import Delivery
from gateway.worker.health import Infirmary
from gateway.worker.pull import sources_of
from gateway.worker.tasks import Attempt, TaskOver, scratch_folder

T = TypeVar("T")

log = logging.getLogger(__name__)

HEALTHY_FAILURES = 5
"""A job that finds its backend unavailable so often, while the probe finds it well, is at fault
itself: its attempt counts."""
MAX_LETTER_BYTES = 1 << 19
"""Of a message that nobody can read, a dead letter keeps so much: it must fit into a message."""
BACKENDS: dict[type, str] = {Inference: "triton", Objects: "s3", TaskStore: "database"}
"""Whose sickness keeps a handler that asks for the port from taking messages."""


class Handler:
    """One @consume handler with everything it needs to run."""

    def __init__(
        self,
        name: str,
        consumer: Consumer,
        ports: Mapping[type, Any],
        stream: JetStream,
        scratch: Path,
    ) -> None:
        self.name = name
        self.consumer = consumer
        self.sources = sources_of(consumer, name)
        self._stream = stream
        self._scratch = scratch
        self._decode = msgspec.json.Decoder(consumer.message_type).decode
        self._is_task = isinstance(consumer.message_type, type) and issubclass(
            consumer.message_type, Job
        )
        self._run_name = next((n for n, want in consumer.wants.items() if want is Run), None)
        missing = [w for w in consumer.wants.values() if w is not Run and w not in ports]
        if missing:
            raise TypeError(f"{name} asks for {missing}, which no adapter provides")
        self.backends = frozenset(BACKENDS[w] for w in consumer.wants.values() if w in BACKENDS)
        self._ports = {n: ports[want] for n, want in consumer.wants.items() if want is not Run}

    async def handle(self, deliveries: list[Delivery], infirmary: Infirmary) -> None:
        """Run the handler on one message or one batch and end each delivery."""
        async with AsyncExitStack() as stack:
            for delivery in deliveries:
                await stack.enter_async_context(delivery.leased(self.consumer.policy.ack_wait_s))
            try:
                await self._handle(deliveries, infirmary)
            except asyncio.CancelledError:
                for delivery in deliveries:
                    await asyncio.shield(delivery.hand_back(self._stream))
                raise
            except Exception:
                log.exception("%s: an error of the worker itself", self.name)
                for delivery in deliveries:
                    await delivery.retry(self.consumer.policy.backoff_after(delivery.attempt))

    async def _handle(self, deliveries: list[Delivery], infirmary: Infirmary) -> None:
        readable: list[tuple[Delivery, Any]] = []
        for delivery in deliveries:
            try:
                readable.append((delivery, self._decode(delivery.data)))
            except msgspec.MsgspecError as error:
                bury = partial(self._bury, delivery, "unreadable", str(error))
                await self._through_sickness(infirmary, bury)
                await delivery.done()
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
            await self._through_sickness(infirmary, lambda: self._call(messages, None))
        except Exception as error:  # noqa: BLE001 - whatever a handler raises ends the attempt
            failure = _log_failure(self.name, error)
            if len(readable) == 1:
                await self._failed(*readable[0], failure, infirmary)
                return
            for one in readable:
                await self._batch([one], infirmary)
        else:
            for delivery, _ in readable:
                await delivery.done()

    async def _single(self, delivery: Delivery, message: Any, infirmary: Infirmary) -> None:
        try:
            await self._through_sickness(
                infirmary, lambda: self._attempt(delivery, message, infirmary)
            )
        except TaskOver:
            log.info("%s: task %s is over already", self.name, message.task.task_id)
        except Exception as error:  # noqa: BLE001 - whatever a handler raises ends its attempt
            await self._failed(delivery, message, _log_failure(self.name, error), infirmary)
            return
        await delivery.done()

    async def _failed(
        self, delivery: Delivery, message: Any, failure: NereidError, infirmary: Infirmary
    ) -> None:
        """Give the message back for another attempt, or give it up for good."""
        policy = self.consumer.policy
        permanent = isinstance(failure, JobFailed | RequestError)
        if not permanent and delivery.attempt < policy.attempts:
            await delivery.retry(policy.backoff_after(delivery.attempt))
            return
        await self._through_sickness(
            infirmary, lambda: self._give_up(delivery, message, failure, bury=not permanent)
        )
        await delivery.done()

    async def _attempt(self, delivery: Delivery, message: Any, infirmary: Infirmary) -> None:
        """Run the handler. A task's answer outlives a sick queue: only the telling is repeated."""
        most = self.consumer.policy.attempts
        if delivery.attempt > most:
            raise RetryJob("worker_lost", f"{most} workers died or were lost with this job")
        if not self._is_task:
            await self._call(message, None)
            return
        async with scratch_folder(self._scratch) as folder:
            attempt = Attempt(message, delivery.attempt, folder, self._stream)
            answer = await attempt.run_until_over(
                lambda: self._through_sickness(infirmary, lambda: self._call(message, attempt))
            )
            await self._through_sickness(infirmary, lambda: attempt.finish(answer))

    async def _call(self, message: Any, run: Run | None) -> Any:
        extra = {} if self._run_name is None else {self._run_name: run}
        try:
            async with asyncio.timeout(self.consumer.policy.timeout_s):
                return await self.consumer.handler(message, **self._ports, **extra)
        except TimeoutError as error:
            raise RetryJob(
                "too_slow", f"not done within {self.consumer.policy.timeout_s} s"
            ) from error

    async def _through_sickness(self, infirmary: Infirmary, work: Callable[[], Awaitable[T]]) -> T:
        """Run `work`, again and again while a backend is away: that spends no attempt.

        Raises `RetryJob` where the backend is well and fails this job alone.
        """
        failures = 0
        while True:
            try:
                return await work()
            except Unavailable as error:
                failures = failures + 1 if await infirmary.until_well(error) else 0
                if failures >= HEALTHY_FAILURES:
                    raise RetryJob(error.code, error.message) from error

    async def _give_up(
        self, delivery: Delivery, message: Any, failure: NereidError, *, bury: bool
    ) -> None:
        """Tell the task's end; what ran out of attempts goes to the dead letters first."""
        if bury or not self._is_task:
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
            payload=delivery.data[:MAX_LETTER_BYTES],
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
