"""Depth and age of queues, as a real JetStream tells them when Prometheus asks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from prometheus_client import CollectorRegistry

from functions._kit.consume import consume
from functions._kit.errors import Unavailable
from functions._kit.messages import Message, now
from functions._kit.policy import Policy
from functions.tasks.contracts import DeadLetter
from gateway.adapters.jetstream import JetStream, StreamLimits, connect, ensure_streams
from gateway.metrics import queues as queues_module
from gateway.metrics.queues import Queues
from gateway.registry import Function
from gateway.worker.pull import ensure_durable, sources_of
from tests.gateway.test_worker import random_word


class Thing(Message, frozen=True, kw_only=True):
    """A job of the test's own."""


async def handle(thing: Thing) -> None:
    """Never called."""


class Asked:
    """Queues of two functions of the test's own, and what they tell."""

    def __init__(self, stream: JetStream, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stream = stream
        self.banded, self.plain = f"test.{random_word()}", f"test.{random_word()}"
        policies = {self.banded: Policy(bands=True), self.plain: Policy()}
        self.functions = [
            Function(name, "a test", [], [consume(f"jobs.{name}", policy=policy)(handle)])
            for name, policy in policies.items()
        ]
        monkeypatch.setattr(queues_module, "CACHE_S", 0)
        self.queues = Queues(stream, self.functions)
        self._registry = CollectorRegistry()
        self._registry.register(self.queues)

    async def value(self, name: str, **labels: str) -> float | None:
        await self.queues.refresh()
        return self._registry.get_sample_value(f"nereid_{name}", labels)

    async def ensure(self) -> None:
        """Make the durable consumers, as the first worker does."""
        for function in self.functions:
            for source in sources_of(function.consumers[0], function.name):
                await ensure_durable(self.stream.client, source, function.consumers[0])

    async def take(self, durable: str) -> Any:
        """Take a message and keep it in hand."""
        js = self.stream.client.jetstream()
        subscription = await js.pull_subscribe_bind(durable, "JOBS")
        (message,) = await subscription.fetch(1)
        return message


@pytest_asyncio.fixture
async def asked(nats_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Asked]:
    client = await connect(nats_url, name="test")
    await ensure_streams(client, StreamLimits())
    yield Asked(JetStream(client), monkeypatch)
    await client.close()


async def test_waiting_taken_and_dealt_with(asked: Asked) -> None:
    name = asked.banded
    high, normal = {"function": name, "band": "high"}, {"function": name, "band": "normal"}
    for _ in range(3):
        await asked.stream.publish(f"jobs.{name}.high", Thing())
    assert await asked.value("jetstream_up") == 1
    assert await asked.value("queue_waiting_messages", **high) == 3, "no worker has ever run"
    await asked.ensure()
    assert await asked.value("queue_waiting_messages", **high) == 3
    assert await asked.value("queue_in_hand_messages", **high) == 0
    first = await asked.value("queue_oldest_age_seconds", **high)
    assert first is not None
    assert 0 < first < 60
    message = await asked.take(f"{name.replace('.', '_')}_high")
    assert await asked.value("queue_waiting_messages", **high) == 2
    assert await asked.value("queue_in_hand_messages", **high) == 1
    await message.ack_sync()
    assert await asked.value("queue_in_hand_messages", **high) == 0
    assert await asked.value("queue_waiting_messages", **normal) == 0
    assert await asked.value("queue_oldest_age_seconds", **normal) == 0


async def test_the_age_is_that_of_the_oldest_which_nobody_has_taken(asked: Asked) -> None:
    labels = {"function": asked.plain, "band": "none"}
    await asked.ensure()
    await asked.stream.publish(f"jobs.{asked.plain}", Thing())
    oldest = await asked.stream.oldest(f"jobs.{asked.plain}")
    assert oldest is not None
    assert oldest.stored_at is not None
    age = await asked.value("queue_oldest_age_seconds", **labels)
    assert age is not None
    assert abs(age - (now() - oldest.stored_at).total_seconds()) < 5
    await asked.take(asked.plain.replace(".", "_"))
    assert await asked.value("queue_oldest_age_seconds", **labels) == 0


async def test_dead_letters_by_function_and_strangers_under_one_name(asked: Asked) -> None:
    before = await asked.value("dead_letters_messages", function="other")
    for name in (asked.plain, asked.plain, f"test.{random_word()}"):
        letter = DeadLetter(
            subject="jobs.x",
            function=name,
            code="c",
            message="m",
            attempts=1,
            at=now(),
            payload=b"",
        )
        await asked.stream.publish(f"dead.{name}", letter)
    assert await asked.value("dead_letters_messages", function=asked.plain) == 2
    assert await asked.value("dead_letters_messages", function=asked.banded) == 0
    after = await asked.value("dead_letters_messages", function="other")
    assert before is not None
    assert after == before + 1


async def test_a_sick_jetstream_costs_a_scrape_its_deadline_and_tells_nothing_old(
    asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = {"function": asked.plain, "band": "none"}
    await asked.ensure()
    assert await asked.value("queue_waiting_messages", **labels) == 0

    async def hangs(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(queues_module, "DEADLINE_S", 0.05)
    with monkeypatch.context() as patched:
        patched.setattr(asked.queues, "_ask", hangs)
        assert await asked.value("jetstream_up") == 0
        assert await asked.value("queue_waiting_messages", **labels) is None

    async def refuses() -> None:
        raise Unavailable("queue", "JetStream does not answer")

    with monkeypatch.context() as patched:
        patched.setattr(asked.queues, "_ask", refuses)
        assert await asked.value("jetstream_up") == 0
    monkeypatch.setattr(queues_module, "DEADLINE_S", 60)
    assert await asked.value("jetstream_up") == 1
    assert await asked.value("queue_waiting_messages", **labels) == 0


async def test_many_scrapers_ask_jetstream_once(
    asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queues_module, "CACHE_S", 3600)
    asks = 0
    ask = asked.queues._ask

    async def counted() -> Any:
        nonlocal asks
        asks += 1
        return await ask()

    monkeypatch.setattr(asked.queues, "_ask", counted)
    await asyncio.gather(*(asked.queues.refresh() for _ in range(10)))
    assert asks == 1
