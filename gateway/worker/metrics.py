"""What a worker counts of its handlers, around them: function files know nothing of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from prometheus_client import CollectorRegistry

from functions._kit.consume import Consumer
from functions._kit.errors import Unavailable
from functions._kit.messages import now
from functions.alerts.contracts import Alert
from functions.tasks.contracts import Job, TaskEvent
from gateway.metrics import catalogue
from gateway.metrics.sickness import OwnSickness
from gateway.worker.delivery import Delivery
from gateway.worker.health import Infirmary
from gateway.worker.pull import sources_of

Run = Literal["completed", "failed", "unavailable", "too_slow", "cancelled"]
"""How a handler's run ends; only `failed` and `too_slow` cost an attempt."""
End = Literal["done", "failed", "retried", "dead_lettered", "handed_back", "over"]
ENDS: tuple[End, ...] = ("done", "failed", "retried", "dead_lettered", "handed_back", "over")
"""How a message leaves us; `over` is one whose task had ended elsewhere, by a cancel mostly."""
FOR_GOOD = frozenset({"done", "failed", "dead_lettered"})
MOST_WORKFLOWS = 64
"""Workflows come in messages that others may write: beyond so many they are all `other`."""


class WorkMetrics:
    """The instruments of one worker."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.waits = catalogue.QUEUE_WAIT.histogram(registry)
        self.runs = catalogue.HANDLER_SECONDS.histogram(registry)
        self.messages = catalogue.MESSAGES.counter(registry)
        self.attempts = catalogue.MESSAGE_ATTEMPTS.histogram(registry)
        self.slots = catalogue.SLOTS.gauge(registry)
        self.busy = catalogue.SLOTS_BUSY.gauge(registry)
        self.queued = catalogue.TASK_QUEUED.histogram(registry)
        self.took = catalogue.TASK_SECONDS.histogram(registry)
        self.tasks = catalogue.TASKS_RECORDED.counter(registry)
        self.alerts = catalogue.ALERTS_RECORDED.counter(registry)
        self._workflows: set[str] = set()

    def watch(self, infirmary: Infirmary) -> None:
        """Tell, from now on, which backends this worker waits for."""
        self.registry.register(OwnSickness(infirmary))

    def of(self, name: str, consumer: Consumer) -> FunctionMetrics:
        """The instruments of one handler."""
        return FunctionMetrics(self, name, consumer)

    def workflow(self, name: str) -> str:
        """`name`, as a label with a bounded number of values."""
        if name not in self._workflows:
            if len(self._workflows) >= MOST_WORKFLOWS:
                return "other"
            self._workflows.add(name)
        return name


class FunctionMetrics:
    """The instruments of one handler, with its labels looked up once."""

    def __init__(self, work: WorkMetrics, name: str, consumer: Consumer) -> None:
        self._work, self._name = work, name
        self._waits = {
            source.subject: work.waits.labels(name, source.band)
            for source in sources_of(consumer, name)
        }
        (self._only_wait, *_) = self._waits.values()
        self._ends = {outcome: work.messages.labels(name, outcome) for outcome in ENDS}
        self._attempts = work.attempts.labels(name)
        policy = consumer.policy
        kinds = {"ordinary": policy.concurrency, "express": policy.express}
        self.busy = {kind: work.busy.labels(name, kind) for kind, count in kinds.items() if count}
        """Busy slots by kind; the worker counts them up and down."""
        for kind in self.busy:
            work.slots.labels(name, kind).set(kinds[kind])

    def taken(self, deliveries: Sequence[Delivery]) -> None:
        """Messages are in hand: those that never were before have waited until now."""
        moment = time.time()
        for delivery in deliveries:
            if delivery.attempt == 1:
                waits = self._waits.get(delivery.subject, self._only_wait)
                waits.observe(max(0.0, moment - delivery.stored_at.timestamp()))

    @contextmanager
    def run(self) -> Iterator[None]:
        """Time a handler's run, by how it ends."""
        began = time.perf_counter()
        outcome: Run = "failed"
        try:
            yield
            outcome = "completed"
        except TimeoutError:
            outcome = "too_slow"
            raise
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        except Unavailable:
            outcome = "unavailable"
            raise
        finally:
            self._work.runs.labels(self._name, outcome).observe(time.perf_counter() - began)

    def began(self, job: Job, attempt: int) -> None:
        """A task's step begins; at the first attempt of the first one, it has waited until now."""
        if attempt == 1 and not job.done:
            waited_s = (now() - job.task.created_at).total_seconds()
            workflow = self._work.workflow(job.task.workflow)
            self._work.queued.labels(workflow).observe(max(0.0, waited_s))

    def ended(self, delivery: Delivery, outcome: End) -> None:
        """A message leaves our hands."""
        self._ends[outcome].inc()
        if outcome in FOR_GOOD:
            self._attempts.observe(delivery.attempt)

    def recorded(self, messages: Sequence[Any]) -> None:
        """A batch has been dealt with: count what its facts were, if they were facts."""
        for message in messages:
            if isinstance(message, TaskEvent) and message.status.final:
                labels = self._work.workflow(message.task.workflow), message.status.value
                took_s = (message.at - message.task.created_at).total_seconds()
                self._work.took.labels(*labels).observe(max(0.0, took_s))
                self._work.tasks.labels(*labels).inc()
            elif isinstance(message, Alert) and message.image_key is None:
                self._work.alerts.inc()
