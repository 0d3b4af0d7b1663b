"""Turns for an outside API: at once in a process, a minute and a day over all of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import pytest
import pytest_asyncio

from functions._kit.errors import Unavailable
from functions._kit.fakes import FakeKeyValue
from functions._kit.limiter import BUCKET, Limiter, NoTurn, QuotaSpent
from functions._kit.messages import new_id
from functions._kit.ports import Entry, KeyValue
from gateway.adapters.jetstream import connect
from gateway.adapters.keyvalue import JetStreamKeyValue, ensure_buckets

NOON = datetime(2026, 5, 4, 12, 0, 10, tzinfo=UTC)
MIDNIGHT = datetime(2026, 5, 5, tzinfo=UTC)
PATIENCE_S = 90.0

T = TypeVar("T")
MakeLimiter = Callable[..., Limiter]


class Clock:
    """A time that passes when everybody in `run` waits for it."""

    def __init__(self) -> None:
        self.now = NOON
        self.waits: list[float] = []
        self._waiting: list[tuple[datetime, asyncio.Event]] = []

    def __call__(self) -> datetime:
        return self.now

    async def wait(self, seconds: float) -> None:
        self.waits.append(seconds)
        come = asyncio.Event()
        self._waiting.append((self.now + timedelta(seconds=seconds), come))
        await come.wait()

    async def run(self, works: Iterable[Coroutine[Any, Any, T]]) -> list[T | BaseException]:
        """All at once; their results and errors."""
        tasks = [asyncio.create_task(work) for work in works]
        async with asyncio.timeout(60):
            while left := sum(not task.done() for task in tasks):
                await asyncio.sleep(0)
                if len(self._waiting) == left:
                    self.now = min(until for until, _ in self._waiting)
                    for _, come in [w for w in self._waiting if w[0] <= self.now]:
                        come.set()
                    self._waiting = [w for w in self._waiting if w[0] > self.now]
        return await asyncio.gather(*tasks, return_exceptions=True)


class SlowKeyValue(FakeKeyValue):
    """Lets others in before and after each answer, as a network does."""

    async def get(self, bucket: str, key: str) -> Entry | None:
        await asyncio.sleep(0)
        entry = await super().get(bucket, key)
        await asyncio.sleep(0)
        return entry

    async def swap(self, bucket: str, key: str, value: bytes, *, revision: int) -> bool:
        await asyncio.sleep(0)
        return await super().swap(bucket, key, value, revision=revision)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def values() -> SlowKeyValue:
    return SlowKeyValue()


@pytest.fixture
def name() -> str:
    return f"test-{new_id()}"


@pytest.fixture
def make(values: KeyValue, name: str, clock: Clock) -> MakeLimiter:
    """Makes the limiter of another process, or of one that has been started again."""

    def limiter(
        *,
        at_once: int = 100,
        per_minute: int | None = None,
        per_day: int | None = None,
        values: KeyValue = values,
    ) -> Limiter:
        return Limiter(
            values,
            name,
            at_once=at_once,
            per_minute=per_minute,
            per_day=per_day,
            clock=clock,
            wait=clock.wait,
        )

    return limiter


@pytest_asyncio.fixture
async def jetstreams(nats_url: str) -> AsyncIterator[list[KeyValue]]:
    """The buckets as three processes see them."""
    async with AsyncExitStack() as stack:
        clients = [await connect(nats_url, name="tests") for _ in range(3)]
        for client in clients:
            stack.push_async_callback(client.close)
        await ensure_buckets(clients[0], 1)
        yield [JetStreamKeyValue(client) for client in clients]


async def go(limiter: Limiter, sent: list[datetime], clock: Clock) -> None:
    """One request; `sent` gets its time."""
    async with limiter.turn(patience_s=PATIENCE_S):
        sent.append(clock.now)
        await asyncio.sleep(0)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0)


async def test_no_more_than_may_run_at_once(make: MakeLimiter) -> None:
    limiter, running, finished = make(at_once=3), 0, 0
    gate = asyncio.Event()

    async def one() -> None:
        nonlocal running, finished
        async with limiter.turn(patience_s=PATIENCE_S):
            running += 1
            assert running <= 3
            await gate.wait()
            running -= 1
            finished += 1

    tasks = [asyncio.create_task(one()) for _ in range(20)]
    await until(lambda: running == 3)
    assert (await limiter.usage()).today == 3
    gate.set()
    await asyncio.gather(*tasks)
    assert finished == 20


async def test_a_turn_that_does_not_come_in_time_is_refused(make: MakeLimiter) -> None:
    limiter = make(at_once=1)
    async with limiter.turn(patience_s=PATIENCE_S):
        with pytest.raises(NoTurn, match=r"took longer than 0\.01 s"):
            async with limiter.turn(patience_s=0.01):
                raise AssertionError
    assert (await limiter.usage()).today == 1
    async with limiter.turn(patience_s=PATIENCE_S):
        pass


async def test_the_days_requests_go_out_exactly_whoever_asks(
    make: MakeLimiter, clock: Clock
) -> None:
    processes = [make(per_day=17), make(per_day=17), make(per_day=17)]
    sent: list[datetime] = []
    asked = (go(process, sent, clock) for process in processes for _ in range(20))
    outcomes = await clock.run(asked)
    assert len(sent) == 17
    spent = [outcome for outcome in outcomes if isinstance(outcome, QuotaSpent)]
    assert len(spent) == 60 - 17
    assert {error.resets_at for error in spent} == {MIDNIGHT}
    assert "17 requests of the day are spent" in spent[0].message
    assert "2026-05-05T00:00:00Z" in spent[0].message
    assert clock.waits == [], "a spent day is told at once"


async def test_the_days_requests_go_out_exactly_over_jetstream(
    jetstreams: list[KeyValue], make: MakeLimiter, clock: Clock
) -> None:
    processes = [make(per_day=25, per_minute=15, values=values) for values in jetstreams]
    sent: list[datetime] = []
    asked = (go(process, sent, clock) for process in processes for _ in range(12))
    outcomes = await clock.run(asked)
    assert len(sent) == 25
    assert sum(isinstance(outcome, QuotaSpent) for outcome in outcomes) == 36 - 25
    assert [sum(moment.minute == minute for moment in sent) for minute in range(2)] == [15, 10]
    for process in processes:
        assert (await process.usage()).today == 25


async def test_a_restart_keeps_the_days_count(make: MakeLimiter, clock: Clock) -> None:
    sent: list[datetime] = []
    for _ in range(5):
        await go(make(per_day=5), sent, clock)
    with pytest.raises(QuotaSpent):
        await go(make(per_day=5), sent, clock)
    assert len(sent) == 5


async def test_a_larger_quota_holds_from_the_next_start(make: MakeLimiter, clock: Clock) -> None:
    sent: list[datetime] = []
    await go(make(per_day=1), sent, clock)
    await go(make(per_day=2), sent, clock)
    with pytest.raises(QuotaSpent):
        await go(make(per_day=2), sent, clock)


async def test_a_new_day_begins_at_midnight_utc(make: MakeLimiter, clock: Clock) -> None:
    limiter = make(per_day=1)
    sent: list[datetime] = []
    await go(limiter, sent, clock)
    clock.now = MIDNIGHT - timedelta(microseconds=1)
    with pytest.raises(QuotaSpent):
        await go(limiter, sent, clock)
    clock.now = MIDNIGHT
    usage = await limiter.usage()
    assert (usage.today, usage.resets_at) == (0, MIDNIGHT + timedelta(days=1))
    await go(limiter, sent, clock)
    assert len(sent) == 2


async def test_usage_counts_every_request_without_any_limit(
    make: MakeLimiter, clock: Clock
) -> None:
    limiter = make()
    for _ in range(3):
        await go(limiter, [], clock)
    usage = await make().usage()
    assert (usage.today, usage.per_day, usage.resets_at) == (3, None, MIDNIGHT)


async def test_a_request_that_fails_counts(make: MakeLimiter) -> None:
    limiter = make(per_day=1)
    with pytest.raises(ZeroDivisionError):
        async with limiter.turn(patience_s=PATIENCE_S):
            raise ZeroDivisionError
    assert (await limiter.usage()).today == 1


async def test_a_spent_minute_is_waited_for(make: MakeLimiter, clock: Clock) -> None:
    processes = [make(per_minute=4), make(per_minute=4)]
    sent: list[datetime] = []
    await clock.run(go(processes[n % 2], sent, clock) for n in range(8))
    assert sent == [NOON] * 4 + [NOON.replace(minute=1, second=0)] * 4
    assert set(clock.waits) == {50.0}


async def test_a_minute_too_far_away_is_not_waited_for(make: MakeLimiter, clock: Clock) -> None:
    limiter = make(per_minute=1, per_day=10)
    await go(limiter, [], clock)
    with pytest.raises(NoTurn, match="before 12:01:00 UTC"):
        async with limiter.turn(patience_s=49.9):
            raise AssertionError
    assert clock.waits == []
    assert (await limiter.usage()).today == 1
    sent: list[datetime] = []

    async def patient() -> None:
        async with limiter.turn(patience_s=50.0):
            sent.append(clock.now)

    await clock.run([patient()])
    assert sent == [NOON.replace(minute=1, second=0)]


async def test_while_a_minute_is_waited_for_the_day_may_be_spent(
    make: MakeLimiter, clock: Clock
) -> None:
    limiter = make(per_minute=1, per_day=2)
    sent: list[datetime] = []
    outcomes = await clock.run(go(limiter, sent, clock) for _ in range(4))
    assert len(sent) == 2
    assert sum(isinstance(outcome, QuotaSpent) for outcome in outcomes) == 2


async def test_a_pause_holds_every_turn_of_the_process(make: MakeLimiter, clock: Clock) -> None:
    limiter = make()
    limiter.pause(30)
    limiter.pause(5)
    sent: list[datetime] = []
    await clock.run(go(limiter, sent, clock) for _ in range(3))
    assert sent == [NOON + timedelta(seconds=30)] * 3
    limiter.pause(PATIENCE_S + 1)
    with pytest.raises(NoTurn):
        await go(limiter, sent, clock)


async def test_one_that_is_cancelled_while_it_waits_for_a_slot_takes_nothing(
    make: MakeLimiter, clock: Clock
) -> None:
    limiter = make(at_once=1)
    async with limiter.turn(patience_s=PATIENCE_S):
        waiting = [asyncio.create_task(go(limiter, [], clock)) for _ in range(5)]
        await until(lambda: len(limiter._slots._waiters or ()) == 5)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert all(task.cancelled() for task in waiting)
    assert (await limiter.usage()).today == 1
    await go(limiter, [], clock)


async def test_one_that_is_cancelled_while_it_waits_for_a_minute_takes_nothing(
    values: KeyValue, name: str, clock: Clock
) -> None:
    waiting, never = asyncio.Event(), asyncio.Event()

    async def wait(_: float) -> None:
        waiting.set()
        await never.wait()

    limiter = Limiter(values, name, at_once=1, per_minute=1, per_day=9, clock=clock, wait=wait)
    await go(limiter, [], clock)
    task = asyncio.create_task(go(limiter, [], clock))
    await waiting.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    assert (await limiter.usage()).today == 1
    clock.now += timedelta(minutes=1)
    await go(limiter, [], clock)
    assert (await limiter.usage()).today == 2


@pytest.mark.parametrize("moment", range(16))
async def test_a_cancellation_at_any_moment_leaves_the_limiter_in_order(
    make: MakeLimiter, clock: Clock, moment: int
) -> None:
    limiter = make(at_once=1, per_day=100, per_minute=100)
    task = asyncio.create_task(go(limiter, [], clock))
    for _ in range(moment):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    before = (await limiter.usage()).today
    async with asyncio.timeout(60):
        await go(limiter, [], clock)
    assert (await limiter.usage()).today == before + 1 <= 2


async def test_two_apis_do_not_share_their_quotas(
    values: KeyValue, make: MakeLimiter, clock: Clock
) -> None:
    await go(make(per_day=1), [], clock)
    other = Limiter(values, "other", at_once=1, per_minute=None, per_day=1, clock=clock)
    await go(other, [], clock)


async def test_without_the_bucket_nothing_goes_out(
    make: MakeLimiter, values: SlowKeyValue, clock: Clock
) -> None:
    limiter = make(at_once=1)
    values.sick = True
    sent: list[datetime] = []
    with pytest.raises(Unavailable):
        await go(limiter, sent, clock)
    with pytest.raises(Unavailable):
        await limiter.usage()
    assert sent == []
    values.sick = False
    await go(limiter, sent, clock)
    assert len(sent) == 1


async def test_counts_are_kept_by_day_and_by_minute(
    make: MakeLimiter, values: SlowKeyValue, name: str, clock: Clock
) -> None:
    limiter = make(per_minute=5, per_day=5)
    for _ in range(2):
        await go(limiter, [], clock)
    minute = int(NOON.timestamp()) // 60
    kept = {key: entry.value for key, entry in values.buckets[BUCKET].items()}
    assert kept == {f"{name}.day.2026-05-04": b"2", f"{name}.minute.{minute}": b"2"}


async def test_a_count_that_is_no_number_is_counted_anew(
    make: MakeLimiter, values: KeyValue, name: str, clock: Clock
) -> None:
    day = f"{name}.day.2026-05-04"
    await values.put(BUCKET, day, b"many")
    await go(make(per_day=5), [], clock)
    kept = await values.get(BUCKET, day)
    assert kept is not None
    assert kept.value == b"1"


@pytest.mark.parametrize("limit", ["at_once", "per_minute", "per_day"])
def test_a_limit_below_one_is_refused(make: MakeLimiter, limit: str) -> None:
    with pytest.raises(ValueError, match=f"{limit} must be at least 1, not 0"):
        make(**{limit: 0})


async def test_turns_tell_who_has_one_and_who_waits(make: MakeLimiter) -> None:
    limiter = make(at_once=1)
    begun, end = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        async with limiter.turn(patience_s=60):
            begun.set()
            await end.wait()

    def seen() -> tuple[int, int, int]:
        turns = limiter.turns()
        return turns.at_once, turns.active, turns.waiting

    assert seen() == (1, 0, 0)
    first = asyncio.create_task(hold())
    await begun.wait()
    second = asyncio.create_task(hold())
    await asyncio.sleep(0)
    assert seen() == (1, 1, 1)
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    assert seen() == (1, 1, 0)
    end.set()
    await first
    assert seen() == (1, 0, 0)
