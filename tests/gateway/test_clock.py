"""Handlers that run by the clock: each tick is one worker's."""

from __future__ import annotations

import asyncio
import random
import string
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from functions._kit.consume import Consumer, Tick, consume
from functions._kit.messages import now
from functions._kit.policy import LONGEST_EVERY_S, Policy
from gateway.adapters.jetstream import JetStream, StreamLimits, connect, ensure_streams
from gateway.registry import Function
from gateway.worker import Worker

WAIT_S = 60


@pytest_asyncio.fixture
async def stream(nats_url: str) -> AsyncIterator[JetStream]:
    client = await connect(nats_url, name="test")
    await ensure_streams(client, StreamLimits())
    yield JetStream(client)
    await client.close()


@pytest.fixture
def name() -> str:
    return "test." + "".join(random.choices(string.ascii_lowercase, k=12))


def every_second(name: str, handle: Callable[[Tick], Awaitable[None]], **policy: float) -> Function:
    async def handler(tick: Tick) -> None:
        await handle(tick)

    settings = {"every_s": 1.0, "ack_wait_s": 1.0} | policy
    consumer = consume(f"jobs.{name}", policy=Policy(**settings))(handler)  # type: ignore[arg-type]
    return Function(name, "a test", [], [consumer])


@asynccontextmanager
async def working(function: Function, stream: JetStream, scratch: Path) -> AsyncIterator[None]:
    """A worker of its own, within the block."""
    worker = Worker([function], {}, stream, {}, scratch=scratch, drain_s=5.0)
    stop, ready = asyncio.Event(), asyncio.Event()
    running = asyncio.create_task(worker.run(stop, ready))
    await ready.wait()
    try:
        yield
    finally:
        stop.set()
        await running


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not holds():
            await asyncio.sleep(0.01)


async def test_of_two_workers_one_runs_each_tick_and_none_is_left_out(
    stream: JetStream, name: str, tmp_path: Path
) -> None:
    ticks: list[Tick] = []

    async def handle(tick: Tick) -> None:
        ticks.append(tick)

    function = every_second(name, handle, every_s=2.0)
    async with working(function, stream, tmp_path), working(function, stream, tmp_path):
        await until(lambda: len(ticks) >= 4)
    slots = [int(tick.at.timestamp() // 2) for tick in ticks]
    assert slots == list(range(slots[0], slots[0] + len(slots)))
    assert all(abs(tick.at.timestamp() - time.time()) < WAIT_S for tick in ticks)


async def test_the_tick_of_a_worker_that_died_is_run_by_another(
    stream: JetStream, name: str, tmp_path: Path
) -> None:
    ticks: list[Tick] = []

    async def handle(tick: Tick) -> None:
        ticks.append(tick)

    function = every_second(name, handle, every_s=3000.0, attempts=2)
    async with working(function, stream, tmp_path):
        await until(lambda: len(ticks) == 1)  # and the durable consumer is made
    mine = Tick(at=now())
    await stream.publish(f"jobs.{name}", mine)
    taken = await stream.client.jetstream().pull_subscribe_bind(
        name.replace(".", "_"), stream="JOBS"
    )
    await taken.fetch(1)  # by somebody who never says another word
    async with working(function, stream, tmp_path):
        await until(lambda: len(ticks) == 2)
    assert ticks[1] == mine


async def test_what_was_held_up_is_done_once(stream: JetStream, name: str, tmp_path: Path) -> None:
    """A run longer than its interval, or a backend that was away, gathers no heap of ticks."""
    started, go = asyncio.Event(), asyncio.Event()
    ticks: list[float] = []

    async def handle(tick: Tick) -> None:
        ticks.append(tick.at.timestamp())
        started.set()
        await go.wait()

    async with working(every_second(name, handle), stream, tmp_path):
        await started.wait()
        begun = int(ticks[0])
        await until(lambda: time.time() > begun + 3.2)
        assert await stream.count(f"jobs.{name}") == 1
        go.set()
        await until(lambda: len(ticks) >= 3)
    assert ticks[1] > begun + 3.2, "it was published while the first one ran"


def test_a_tick_is_what_a_handler_by_the_clock_takes_and_no_other() -> None:
    async def by_tick(tick: Tick) -> None: ...
    async def by_word(tick: str) -> None: ...

    assert isinstance(consume("jobs.x", policy=Policy(every_s=1.0))(by_tick), Consumer)
    for handler, policy in ((by_tick, Policy()), (by_word, Policy(every_s=1.0))):
        with pytest.raises(ValueError, match="Tick exactly if"):
            consume("jobs.x", policy=policy)(handler)


@pytest.mark.parametrize("every_s", [0.5, LONGEST_EVERY_S + 1])
def test_intervals_are_within_the_streams_memory(every_s: float) -> None:
    with pytest.raises(ValueError, match="every_s"):
        Policy(every_s=every_s)
