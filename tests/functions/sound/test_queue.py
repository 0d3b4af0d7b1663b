"""Who is converted next."""

from __future__ import annotations

import asyncio
import random

import pytest

from functions._kit.errors import TooManyRequests
from functions._kit.sound import ConversionQueue
from functions._kit.sound.queue import BYTES_A_SECOND, LARGE_BYTES

SMALL, LARGE = 10_000, LARGE_BYTES + 1


class Line:
    """Conversions that last until they are told to end."""

    def __init__(self, at_once: int, max_waiting: int = 100) -> None:
        self.queue = ConversionQueue(at_once, max_waiting)
        self.running: dict[str, asyncio.Event] = {}
        self.order: list[str] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def begin(self, name: str, size_bytes: int) -> None:
        self.tasks[name] = asyncio.create_task(self._convert(name, size_bytes))
        await settled()

    async def end(self, name: str) -> None:
        self.running[name].set()
        await self.tasks[name]
        await settled()

    async def _convert(self, name: str, size_bytes: int) -> None:
        async with self.queue.turn(size_bytes):
            self.order.append(name)
            self.running[name] = asyncio.Event()
            try:
                await self.running[name].wait()
            finally:
                del self.running[name]


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_equal_files_are_served_in_their_order() -> None:
    line = Line(1)
    for name in "abcd":
        await line.begin(name, SMALL)
    for name in "abcd":
        await line.end(name)
    assert line.order == list("abcd")


async def test_a_short_file_overtakes_long_ones_that_wait() -> None:
    line = Line(1)
    for name in ("running", "long", "longer"):
        await line.begin(name, 10 * BYTES_A_SECOND)
    await line.begin("short", SMALL)
    for name in ("running", "short", "long", "longer"):
        await line.end(name)
    assert line.order == ["running", "short", "long", "longer"]


async def test_a_long_file_is_overtaken_only_for_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("functions._kit.sound.queue.time.monotonic", lambda: now)
    line = Line(1)
    await line.begin("running", SMALL)
    await line.begin("long", 5 * BYTES_A_SECOND)
    now += 6
    await line.begin("late", SMALL)
    for name in ("running", "long", "late"):
        await line.end(name)
    assert line.order == ["running", "long", "late"]


async def test_large_files_leave_a_place_to_others() -> None:
    line = Line(2)
    for name in ("large", "larger"):
        await line.begin(name, LARGE)
    assert set(line.running) == {"large"}
    await line.begin("small", SMALL)
    assert set(line.running) == {"large", "small"}
    await line.end("small")
    assert set(line.running) == {"large"}
    await line.end("large")
    assert set(line.running) == {"larger"}
    await line.end("larger")


async def test_a_single_place_is_for_all() -> None:
    line = Line(1)
    await line.begin("large", LARGE)
    assert set(line.running) == {"large"}
    await line.end("large")


async def test_beyond_the_limit_nobody_may_wait() -> None:
    line = Line(1, max_waiting=1)
    await line.begin("running", SMALL)
    await line.begin("waiting", SMALL)
    await line.begin("refused", SMALL)
    with pytest.raises(TooManyRequests, match="1 conversions run and 1 wait") as refused:
        await line.tasks["refused"]
    assert refused.value.retry_after_s >= 1
    await line.end("running")
    await line.end("waiting")
    figures = line.queue.figures()
    assert (figures.active, figures.waiting, figures.completed, figures.failed) == (0, 0, 2, 0)


@pytest.mark.parametrize("seed", range(10))
async def test_whoever_leaves_whenever_no_place_is_lost(seed: int) -> None:
    """Files of all sizes come, end and are cancelled by chance, several in one turn of the loop."""
    chance = random.Random(seed)
    line = Line(chance.choice([1, 2, 3]))
    for number in range(200):
        await line.begin(str(number), chance.choice([SMALL, LARGE]))
        for _ in range(chance.randrange(3)):
            alive = [name for name, task in line.tasks.items() if not task.done()]
            name = chance.choice(alive)
            if name in line.running and chance.random() < 0.5:
                line.running[name].set()
            else:
                line.tasks[name].cancel()
        assert line.queue.figures().active <= line.queue.figures().max_concurrent
    while left := [name for name, task in line.tasks.items() if not task.done()]:
        await settled()
        assert line.running, f"{left} wait, and nobody runs"
        for event in list(line.running.values()):
            event.set()
        await settled()
    figures = line.queue.figures()
    assert (figures.active, figures.waiting) == (0, 0)
    assert line.queue._large == 0
