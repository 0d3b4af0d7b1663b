"""What workers wait for: found out, told to all, taken back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from functions._kit.errors import OutOfMemory, Unavailable
from functions._kit.fakes import FakeKeyValue
from gateway.adapters.keyvalue import BUCKETS
from gateway.worker import health, sickness
from gateway.worker.health import Infirmary
from gateway.worker.sickness import BUCKET, REPEAT_S, SicknessReport, reported

WAIT_S = 60


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not holds():
            await asyncio.sleep(0.001)


async def test_what_a_worker_waits_for_is_told_and_taken_back() -> None:
    values = FakeKeyValue()
    report = SicknessReport(values)
    async with report.running():
        report.tell({"triton": "out of memory"})
        await until(lambda: reported(values) == {"triton": "out of memory"})
        report.tell({"triton": "away", "s3": "away"})
        await until(lambda: reported(values) == {"triton": "away", "s3": "away"})
        report.tell({"s3": "away"})
        await until(lambda: reported(values) == {"s3": "away"})
        report.tell({})
        await until(lambda: reported(values) == {})


async def test_a_worker_that_ends_takes_its_word_back() -> None:
    values = FakeKeyValue()
    report = SicknessReport(values)
    async with report.running():
        report.tell({"triton": "away"})
        await until(lambda: bool(reported(values)))
    assert reported(values) == {}


async def test_one_workers_health_is_not_anothers() -> None:
    values = FakeKeyValue()
    first, second = SicknessReport(values), SicknessReport(values)
    async with first.running(), second.running():
        for report in (first, second):
            report.tell({"triton": "away"})
        await until(lambda: len(values.seen(BUCKET)) == 2)
        first.tell({})
        await until(lambda: len(values.seen(BUCKET)) == 1)
        assert reported(values) == {"triton": "away"}


async def test_what_is_still_so_is_said_again_before_the_bucket_forgets_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert BUCKETS[BUCKET].lifetime_s > 2 * REPEAT_S
    monkeypatch.setattr(sickness, "REPEAT_S", 0.01)
    values = FakeKeyValue()
    report = SicknessReport(values)
    async with report.running():
        report.tell({"triton": "away"})
        for _ in range(3):
            await until(lambda: bool(reported(values)))
            (key,) = values.seen(BUCKET)
            values.expire(BUCKET, key)


async def test_a_worker_that_died_is_forgotten_with_the_buckets_lifetime() -> None:
    assert BUCKETS[BUCKET].lifetime_s <= 60
    values = FakeKeyValue()
    report = SicknessReport(values)
    running = report.running()
    await running.__aenter__()
    report.tell({"triton": "away"})
    await until(lambda: bool(reported(values)))
    dead = [task for task in asyncio.all_tasks() if "_report" in repr(task.get_coro())]
    assert len(dead) == 1
    dead[0].cancel()  # as kill -9: not another word
    await asyncio.gather(*dead, return_exceptions=True)
    (key,) = values.seen(BUCKET)
    values.expire(BUCKET, key)
    assert reported(values) == {}


async def test_what_a_sick_queue_did_not_hear_is_told_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sickness, "REPEAT_S", 0.01)
    values = FakeKeyValue()
    report = SicknessReport(values)
    async with report.running():
        values.sick = True
        report.tell({"s3": "away"})
        await asyncio.sleep(0.05)
        assert reported(values) == {}
        values.sick = False
        await until(lambda: reported(values) == {"s3": "away"})
        values.sick = True
        report.tell({})
        await asyncio.sleep(0.05)
        values.sick = False
        await until(lambda: reported(values) == {})


class Ward:
    """A backend that answers its probe as the test says."""

    def __init__(self) -> None:
        self.well = True
        self.answered = 0
        self.told: list[dict[str, str]] = []
        self.infirmary = Infirmary(
            {"triton": self.probe},
            {"triton": lambda: self.answered},
            lambda sick: self.told.append(dict(sick)),
        )

    async def probe(self) -> bool:
        return self.well


@pytest.fixture
def ward(monkeypatch: pytest.MonkeyPatch) -> Ward:
    monkeypatch.setattr(health, "WAITS_S", (0.01,))
    monkeypatch.setattr(health, "WATCH_S", 0.01)
    return Ward()


NO_MEMORY = OutOfMemory("triton", "CUDA out of memory")
AWAY = Unavailable("triton", "away")


async def test_a_backend_that_answers_at_once_failed_its_caller_alone(ward: Ward) -> None:
    assert await ward.infirmary.until_well(AWAY) is True
    assert ward.told == []


async def test_a_backend_that_is_away_holds_all_until_it_answers(ward: Ward) -> None:
    ward.well = False
    waiting = [asyncio.create_task(ward.infirmary.until_well(AWAY)) for _ in range(3)]
    await until(lambda: ward.told == [{"triton": "away"}])
    healthy = asyncio.create_task(ward.infirmary.all_well({"triton"}))
    await ward.infirmary.all_well({"s3"})
    assert not healthy.done()
    ward.well = True
    assert await asyncio.gather(*waiting) == [False] * 3
    await healthy
    assert ward.told == [{"triton": "away"}, {}]


async def test_a_lack_of_memory_is_over_when_a_request_is_answered(ward: Ward) -> None:
    for _ in range(3):
        await ward.infirmary.until_well(NO_MEMORY)
        assert ward.told == [{"triton": "CUDA out of memory"}]
    ward.answered += 1
    await until(lambda: ward.told[-1] == {})


async def test_a_lack_of_memory_waits_longer_each_time(
    ward: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "WAITS_S", (0.01, 0.05, 0.1))
    clock = asyncio.get_running_loop().time
    waits = []
    for _ in range(4):
        begun = clock()
        await ward.infirmary.until_well(NO_MEMORY)
        waits.append(clock() - begun)
    for wait, least in zip(waits, (0.01, 0.05, 0.1, 0.1), strict=True):
        assert wait >= least * 0.9
    await ward.infirmary.close()


async def test_a_lack_of_memory_that_nobody_meets_any_more_is_over(
    ward: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one job that met it was cancelled: a system that says so for ever takes no other."""
    monkeypatch.setattr(health, "FORGET_S", 0.5)
    await ward.infirmary.until_well(NO_MEMORY)
    assert ward.told == [{"triton": "CUDA out of memory"}]
    await until(lambda: ward.told[-1] == {})
    await ward.infirmary.until_well(NO_MEMORY)
    assert ward.told[-1] == {"triton": "CUDA out of memory"}
    await ward.infirmary.close()


async def test_a_lack_of_memory_that_is_met_again_and_again_is_not_forgotten(
    ward: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "FORGET_S", 2.0)
    clock = asyncio.get_running_loop().time
    begun = clock()
    while clock() < begun + 3:
        await ward.infirmary.until_well(NO_MEMORY)
    assert ward.told == [{"triton": "CUDA out of memory"}]
    await ward.infirmary.close()
