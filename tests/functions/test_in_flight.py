"""Work that callers share, and work beside answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from functions._kit import in_flight as module
from functions._kit.in_flight import InFlight, open_in_flight


class Thing:
    """Something to open; it tells what became of it."""

    def __init__(self, *, error: Exception | None = None) -> None:
        self.error = error
        self.may_open = asyncio.Event()
        self.opening = asyncio.Event()
        self.opened = 0
        self.closed = asyncio.Event()
        self.cancelled = asyncio.Event()

    def make(self) -> AbstractAsyncContextManager[int]:
        return self._open()

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[int]:
        self.opened += 1
        self.opening.set()
        try:
            await self.may_open.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        if self.error is not None:
            raise self.error
        yield self.opened
        self.closed.set()


class Caller:
    """Uses what `key` shares until it is told to leave."""

    def __init__(self, in_flight: InFlight, thing: Thing, key: str = "key") -> None:
        self.got: list[int] = []
        self.inside = asyncio.Event()
        self.may_leave = asyncio.Event()
        self.task = asyncio.create_task(self._use(in_flight, thing, key))

    async def _use(self, in_flight: InFlight, thing: Thing, key: str) -> None:
        async with in_flight.shared(key, thing.make) as value:
            self.got.append(value)
            self.inside.set()
            await self.may_leave.wait()

    async def leave(self) -> None:
        self.may_leave.set()
        await self.task

    async def vanish(self) -> None:
        self.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await self.task


@pytest.fixture
def in_flight(tmp_path: Path) -> InFlight:
    return InFlight(tmp_path)


@pytest.fixture
def thing() -> Thing:
    return Thing()


async def test_callers_at_the_same_time_share_one(in_flight: InFlight, thing: Thing) -> None:
    callers = [Caller(in_flight, thing) for _ in range(20)]
    thing.may_open.set()
    await asyncio.gather(*(caller.inside.wait() for caller in callers))
    assert [caller.got for caller in callers] == [[1]] * 20
    for caller in callers[:-1]:
        await caller.leave()
    assert not thing.closed.is_set()
    late = Caller(in_flight, thing)
    await late.inside.wait()
    await callers[-1].leave()
    assert not thing.closed.is_set()
    await late.leave()
    await thing.closed.wait()
    assert thing.opened == 1


async def test_other_keys_and_later_callers_have_their_own(
    in_flight: InFlight, thing: Thing
) -> None:
    thing.may_open.set()
    one, other = Caller(in_flight, thing, "one"), Caller(in_flight, thing, "other")
    await asyncio.gather(one.inside.wait(), other.inside.wait())
    assert one.got != other.got
    await one.leave()
    again = Caller(in_flight, thing, "one")
    await again.inside.wait()
    assert again.got == [3]
    await asyncio.gather(again.leave(), other.leave())


async def test_it_goes_on_while_one_still_waits(in_flight: InFlight, thing: Thing) -> None:
    first, second = Caller(in_flight, thing), Caller(in_flight, thing)
    await thing.opening.wait()
    await first.vanish()
    thing.may_open.set()
    await second.inside.wait()
    assert (second.got, thing.opened) == ([1], 1)
    await second.leave()
    await thing.closed.wait()


async def test_it_is_cancelled_when_the_last_goes_and_begun_anew_for_the_next(
    in_flight: InFlight, thing: Thing
) -> None:
    callers = [Caller(in_flight, thing) for _ in range(2)]
    await thing.opening.wait()
    for caller in callers:
        await caller.vanish()
    next_one = Caller(in_flight, thing)  # at once, while the old one still ends
    await thing.cancelled.wait()
    thing.may_open.set()
    await next_one.inside.wait()
    assert next_one.got == [2]
    await next_one.leave()


async def test_its_error_goes_to_all_and_is_not_remembered(in_flight: InFlight) -> None:
    thing = Thing(error=ValueError("broken"))
    callers = [Caller(in_flight, thing) for _ in range(3)]
    await thing.opening.wait()
    thing.may_open.set()
    errors = await asyncio.gather(*(c.task for c in callers), return_exceptions=True)
    assert [repr(error) for error in errors] == ["ValueError('broken')"] * 3
    thing.error = None
    after = Caller(in_flight, thing)
    await after.inside.wait()
    assert after.got == [2]
    await after.leave()


async def test_work_beside_an_answer_keeps_open_what_it_needs(
    in_flight: InFlight, thing: Thing
) -> None:
    thing.may_open.set()
    working, may_end = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        working.set()
        await may_end.wait()
        assert not thing.closed.is_set()

    async with in_flight.shared("key", thing.make):
        assert in_flight.beside("key", work())
    await working.wait()
    joined = Caller(in_flight, thing)
    await joined.inside.wait()
    await joined.leave()
    assert (thing.opened, thing.closed.is_set()) == (1, False)
    may_end.set()
    await thing.closed.wait()


async def test_work_beside_answers_is_bounded(
    in_flight: InFlight, thing: Thing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_BESIDE", 10)
    thing.may_open.set()
    now, most, done = 0, 0, 0
    full, may_end = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        nonlocal now, most, done
        now += 1
        most = max(most, now)
        if now == module.BESIDE_AT_ONCE:
            full.set()
        await may_end.wait()
        now -= 1
        done += 1

    async with in_flight.shared("key", thing.make):
        assert [in_flight.beside("key", work()) for _ in range(12)] == [True] * 10 + [False] * 2
    await full.wait()
    may_end.set()
    await in_flight.finish()
    assert (done, most) == (10, module.BESIDE_AT_ONCE)
    assert thing.closed.is_set()


async def test_a_failure_beside_an_answer_is_told_and_harms_nobody(
    in_flight: InFlight, thing: Thing, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        raise OSError("no room")

    thing.may_open.set()
    async with in_flight.shared("key", thing.make):
        in_flight.beside("key", work())
    await thing.closed.wait()
    assert "work beside an answer failed: no room" in caplog.text


async def test_the_end_waits_for_work_beside_answers(tmp_path: Path, thing: Thing) -> None:
    thing.may_open.set()
    done = asyncio.Event()

    async def work() -> None:
        await asyncio.sleep(0.05)
        done.set()

    async with open_in_flight(tmp_path) as in_flight, in_flight.shared("key", thing.make):
        in_flight.beside("key", work())
    assert done.is_set()
    assert thing.closed.is_set()


async def test_the_end_does_not_wait_for_ever(in_flight: InFlight, thing: Thing) -> None:
    thing.may_open.set()
    never, ended = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        try:
            await never.wait()
        finally:
            ended.set()

    async with in_flight.shared("key", thing.make):
        in_flight.beside("key", work())
    await in_flight.finish(patience_s=0.01)
    assert ended.is_set()
