"""What `Figures` promises: one suite over the fake and the real one, and how the latter tells."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from collections.abc import AsyncIterator, Callable

import msgspec
import pytest
import pytest_asyncio

from functions._kit.fakes import FakeFigures, FakeKeyValue
from functions._kit.ports import ConversionFigures, Figures, KeyValue
from gateway.adapters import figures as adapter
from gateway.adapters.figures import BUCKET, KeyValueFigures, open_figures
from gateway.adapters.jetstream import connect
from gateway.adapters.keyvalue import ensure_buckets, open_key_values
from gateway.adapters.usage import UsageMeter


class Converter:
    """Counts what the test says; converts nothing."""

    def __init__(self) -> None:
        self.now = ConversionFigures(
            active=0, max_concurrent=2, waiting=0, completed=0, failed=0, total_time_s=0.0
        )

    async def convert(self, *_: object, **__: object) -> None:
        raise NotImplementedError

    def count(self, **figures: float) -> None:
        self.now = msgspec.convert(
            {**msgspec.to_builtins(self.now), **figures}, ConversionFigures, strict=False
        )

    def figures(self) -> ConversionFigures:
        return self.now


def new_figures(values: KeyValue, converter: Converter, name: str = "nereid") -> KeyValueFigures:
    return KeyValueFigures(values, converter, name, "serve")  # type: ignore[arg-type]


@pytest.fixture
def converter() -> Converter:
    return Converter()


@pytest.fixture
def values() -> FakeKeyValue:
    return FakeKeyValue()


@pytest_asyncio.fixture
async def real_values(nats_url: str) -> AsyncIterator[KeyValue]:
    client = await connect(nats_url, name="tests")
    await ensure_buckets(client, 1)
    async with open_key_values(client) as found:
        yield found
    await client.close()


@pytest.fixture(params=["fake", "values"])
def figures(request: pytest.FixtureRequest, values: FakeKeyValue, converter: Converter) -> Figures:
    if request.param == "fake":
        return FakeFigures(converter)  # type: ignore[arg-type]
    return new_figures(values, converter)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0.01)


def test_conversions_are_those_of_the_converter_now(figures: Figures, converter: Converter) -> None:
    (own,) = figures.all()
    assert own.conversions == converter.now
    converter.count(active=1, completed=7, failed=2, total_time_s=1.5)
    (own,) = figures.all()
    assert own.conversions == converter.now


async def test_transcriptions_are_counted_exactly_whatever_happens_at_once(
    figures: Figures,
) -> None:
    chance = random.Random(1)
    may_end = asyncio.Event()
    heard: list[tuple[float, float]] = []

    async def transcribe(number: int) -> None:
        with figures.transcribing():
            await may_end.wait()
            await asyncio.sleep(chance.random() / 100)
            if number % 5 == 0:
                raise ZeroDivisionError
            sound = (float(number), chance.random())
        figures.add_transcription(*sound)
        heard.append(sound)

    tasks = [asyncio.create_task(transcribe(number)) for number in range(100)]
    await until(lambda: figures.all()[0].transcriptions.active == 100)
    for task in tasks[1:20:5]:
        task.cancel()
    may_end.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    counted = figures.all()[0].transcriptions
    assert (counted.active, counted.completed) == (0, len(heard)) == (0, 76)
    assert counted.audio_s == pytest.approx(sum(audio_s for audio_s, _ in heard))
    assert counted.total_time_s == pytest.approx(sum(time_s for _, time_s in heard))


async def test_what_was_told_is_seen_by_the_others(values: FakeKeyValue) -> None:
    ours, theirs = new_figures(values, Converter(), "a"), new_figures(values, Converter(), "b")
    assert len(ours.all()) == 1
    theirs.add_transcription(10.0, 0.5)
    await theirs.tell()
    own, other = ours.all()
    assert (own.name, other.name) == ("a", "b")
    assert other == theirs.all()[0]
    assert [f.name for f in theirs.all()] == ["b"]


async def test_only_what_has_changed_is_told_but_again_in_time(
    values: FakeKeyValue, converter: Converter, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = new_figures(values, converter)

    async def was_told() -> bool:
        before = await values.get(BUCKET, figures.process_id)
        await figures.tell()
        return before != await values.get(BUCKET, figures.process_id)

    assert await was_told()
    assert not await was_told()
    converter.count(waiting=1)
    assert await was_told()
    assert not await was_told()
    with figures.transcribing():
        assert await was_told()
    assert await was_told()
    monkeypatch.setattr(adapter, "AGAIN_S", 0.0)
    assert await was_told(), "it would end by its age"


async def test_what_could_not_be_told_is_told_the_next_time(
    values: FakeKeyValue, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(adapter, "TELL_S", 0.01)
    caplog.set_level("INFO")
    watcher = new_figures(values, Converter())
    async with open_figures(values, Converter(), "b", "work") as figures:  # type: ignore[arg-type]
        await until(lambda: len(watcher.all()) == 2)
        values.sick = True
        figures.add_transcription(1.0, 1.0)
        await until(lambda: caplog.text.count("figures wait to be told") >= 2)
        assert watcher.all()[1].transcriptions.completed == 0
        values.sick = False
        await until(lambda: watcher.all()[1].transcriptions.completed == 1)
        assert watcher.all()[1].role == "work"
    assert len(watcher.all()) == 1, "it has ended and its figures stay"


async def test_a_process_that_vanishes_is_no_longer_counted(values: FakeKeyValue) -> None:
    ours, theirs = new_figures(values, Converter()), new_figures(values, Converter())
    await theirs.tell()
    assert len(ours.all()) == 2
    values.expire(BUCKET, theirs.process_id)
    assert len(ours.all()) == 1


async def test_figures_that_nobody_can_read_are_left_out(
    values: FakeKeyValue, converter: Converter, caplog: pytest.LogCaptureFixture
) -> None:
    figures = new_figures(values, converter)
    await values.put(BUCKET, "newer", b'{"process_id": 1}')
    assert len(figures.all()) == 1
    assert "the figures of newer cannot be read" in caplog.text


async def test_processes_see_each_other_over_jetstream(
    real_values: KeyValue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter, "TELL_S", 0.05)
    watcher = new_figures(real_values, Converter())
    converter = Converter()
    async with open_figures(real_values, converter, "b", "work") as theirs:  # type: ignore[arg-type]
        converter.count(completed=3, total_time_s=0.3)
        theirs.add_transcription(60.0, 2.0)

        def seen() -> bool:
            found = {f.process_id: f for f in watcher.all()}
            other = found.get(theirs.process_id)
            return other is not None and (
                other.conversions == converter.now
                and other.transcriptions == theirs.all()[0].transcriptions
            )

        await until(seen)
    await until(lambda: theirs.process_id not in {f.process_id for f in watcher.all()})


BURN = """
import os, select, sys
block = bytearray(os.urandom(1 << 20) * 64)
print("ready", flush=True)
while not select.select([sys.stdin], [], [], 0)[0]:
    block[::4096] = block[::4096]
"""


def test_cpu_and_memory_are_of_this_process_and_its_children() -> None:
    meter = UsageMeter()
    alone = meter.read()
    assert alone.memory_bytes > 20e6
    with subprocess.Popen(
        [sys.executable, "-c", BURN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        meter.read()
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(0.5)
        together = meter.read()
        assert child.stdin is not None
        child.stdin.close()
    assert together.memory_bytes > alone.memory_bytes + (64 << 20)
    assert together.cpu_percent > 5
    assert 2 < together.machine_cpu_percent <= 100
    assert meter.read().memory_bytes < together.memory_bytes - (64 << 20)
