"""What `Tally` promises: one suite over the fake and the real one, and how the latter tells."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
import pytest_asyncio

from functions._kit.errors import Unavailable
from functions._kit.fakes import FakeStream, FakeTally
from functions._kit.ports import Stream, Tally
from functions.alerts.contracts import COUNTS_SUBJECT, Counts, CountsEvent
from gateway.adapters import tally as adapter
from gateway.adapters.jetstream import JetStream, StreamLimits, connect, ensure_streams
from gateway.adapters.tally import StreamTally, open_tally

NOON = datetime(2026, 5, 4, 12, 34, 56, 789, tzinfo=UTC)
HOUR = datetime(2026, 5, 4, 12, tzinfo=UTC)


class Clock:
    """Says what the test has set."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        return self.now


def told(stream: FakeStream) -> list[Counts]:
    """Everything that was told, in order."""
    records = stream.records(COUNTS_SUBJECT)
    return [c for r in records for c in msgspec.json.decode(r.data, type=CountsEvent).counts]


def sums(counts: list[Counts]) -> dict[tuple[str, datetime, str], int]:
    """What is known after all of `counts`: the latest of each."""
    return {(c.camera_id, c.hour, c.name): c.count for c in counts}


@pytest.fixture(params=["fake", "stream"])
def tally(request: pytest.FixtureRequest) -> Tally:
    return FakeTally() if request.param == "fake" else StreamTally(FakeStream())


@pytest.fixture
def stream() -> FakeStream:
    return FakeStream()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest_asyncio.fixture
async def real_stream(nats_url: str) -> AsyncIterator[JetStream]:
    client = await connect(nats_url, name="tests")
    await ensure_streams(client, StreamLimits())
    yield JetStream(client)
    await client.close()


def test_frames_in_hand_are_counted_while_they_are(tally: Tally) -> None:
    assert tally.frames_in_hand("door") == 0
    with tally.in_hand("door"):
        with tally.in_hand("door"), tally.in_hand("yard"):
            assert (tally.frames_in_hand("door"), tally.frames_in_hand("yard")) == (2, 1)
        assert (tally.frames_in_hand("door"), tally.frames_in_hand("yard")) == (1, 0)
    assert tally.frames_in_hand("door") == 0


def test_a_frame_that_fails_is_no_longer_in_hand(tally: Tally) -> None:
    with suppress(ZeroDivisionError), tally.in_hand("door"):
        raise ZeroDivisionError
    assert tally.frames_in_hand("door") == 0


def test_the_fake_adds_up() -> None:
    tally = FakeTally()
    tally.add("door", "frames")
    tally.add("door", "frames", 4)
    tally.add("yard", "frames")
    assert tally.sums == {("door", "frames"): 5, ("yard", "frames"): 1}


async def test_sums_are_told_by_camera_hour_and_name(stream: FakeStream, clock: Clock) -> None:
    tally = StreamTally(stream, clock)
    tally.add("door", "frames")
    tally.add("door", "frames", 2)
    tally.add("door", "shed")
    tally.add("yard", "frames")
    clock.now += timedelta(minutes=30)
    tally.add("door", "frames")
    await tally.tell()
    assert len(stream.records("events.>")) == 1
    assert sums(told(stream)) == {
        ("door", HOUR, "frames"): 3,
        ("door", HOUR, "shed"): 1,
        ("yard", HOUR, "frames"): 1,
        ("door", HOUR + timedelta(hours=1), "frames"): 1,
    }
    assert {counts.source for counts in told(stream)} == {tally.source}


async def test_only_what_has_changed_is_told_and_sums_go_on(
    stream: FakeStream, clock: Clock
) -> None:
    tally = StreamTally(stream, clock)
    tally.add("door", "frames", 5)
    tally.add("yard", "frames")
    await tally.tell()
    await tally.tell()
    assert len(stream.records("events.>")) == 1
    tally.add("door", "frames")
    await tally.tell()
    assert [(c.camera_id, c.count) for c in told(stream)[2:]] == [("door", 6)]


async def test_each_process_is_a_source_of_its_own(stream: FakeStream) -> None:
    assert StreamTally(stream).source != StreamTally(stream).source


async def test_what_could_not_be_told_is_told_the_next_time(
    stream: FakeStream, clock: Clock
) -> None:
    tally = StreamTally(stream, clock)
    tally.add("door", "frames")
    stream.sick = True
    with pytest.raises(Unavailable):
        await tally.tell()
    stream.sick = False
    clock.now += timedelta(hours=5)
    tally.add("door", "frames")
    await tally.tell()
    later = HOUR + timedelta(hours=5)
    assert sums(told(stream)) == {("door", HOUR, "frames"): 1, ("door", later, "frames"): 1}


async def test_hours_that_are_over_and_told_are_forgotten(stream: FakeStream, clock: Clock) -> None:
    tally = StreamTally(stream, clock)
    for _ in range(100):
        tally.add("door", "frames")
        await tally.tell()
        clock.now += timedelta(hours=1)
    assert len(told(stream)) == 100
    assert len(tally._sums) == len(tally._told) <= 3


async def test_many_counts_fit_into_messages(
    stream: FakeStream, clock: Clock, real_stream: JetStream
) -> None:
    for target in (stream, real_stream):
        tally = StreamTally(target, clock)
        for camera in range(50):
            for label in range(80):
                tally.add(f"{camera:064}", f"ignored.{label:060}", camera + 1)
        await tally.tell()
    assert len(sums(told(stream))) == 4000
    assert max(len(record.data) for record in stream.records("events.>")) < 500_000


async def test_counts_are_told_every_few_seconds(
    stream: FakeStream, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(adapter, "TELL_S", 0.02)
    caplog.set_level("INFO")
    async with open_tally(stream) as tally:
        tally.add("door", "frames")
        await _until(lambda: len(told(stream)) == 1)
        stream.sick = True
        tally.add("door", "frames")
        await _until(lambda: caplog.text.count("counts wait to be told") >= 2)
        stream.sick = False
        await _until(lambda: len(told(stream)) == 2)
    assert [counts.count for counts in told(stream)] == [1, 2]


async def test_what_was_counted_last_is_told_at_the_end(stream: FakeStream) -> None:
    async with open_tally(stream) as tally:
        tally.add("door", "frames")
        assert told(stream) == []
    assert [counts.count for counts in told(stream)] == [1]


async def test_an_end_without_a_queue_is_an_end(
    stream: FakeStream, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_tally(stream) as tally:
        tally.add("door", "frames")
        stream.sick = True
    assert "counts of this process are lost" in caplog.text


async def test_counts_reach_their_stream(real_stream: JetStream) -> None:
    async with open_tally(real_stream) as tally:
        tally.add("door", "cooled.person", 7)
    last = await _last_of(real_stream, tally.source)
    assert [(c.camera_id, c.name, c.count) for c in last.counts] == [("door", "cooled.person", 7)]


async def _last_of(stream: Stream, source: str) -> CountsEvent:
    record = await stream.last(COUNTS_SUBJECT)
    assert record is not None
    event = msgspec.json.decode(record.data, type=CountsEvent)
    assert {counts.source for counts in event.counts} == {source}
    return event


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0.01)
