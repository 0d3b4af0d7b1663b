"""One suite over the fake and over a real NATS server: what `Stream` promises."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, cast

import msgspec
import pytest
import pytest_asyncio

from functions._kit.errors import QueueFull, Unavailable
from functions._kit.fakes import FakeStream
from functions._kit.messages import Message, new_id, now
from functions._kit.ports import Record, Stream
from gateway.adapters import jetstream
from gateway.adapters.jetstream import JetStream, StreamLimits, connect, ensure_streams
from gateway.embedded import EmbeddedServers, RunningNats

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

WAIT_S = 60


class Note(Message, frozen=True, kw_only=True):
    text: str


@pytest.fixture(params=["fake", "jetstream"])
def address(request: pytest.FixtureRequest) -> str | None:
    """Where the real server is; None for the fake. Not async: it may start the server."""
    return str(request.getfixturevalue("nats_url")) if request.param == "jetstream" else None


@pytest_asyncio.fixture
async def stream(address: str | None) -> AsyncIterator[Stream]:
    if address is None:
        yield FakeStream()
        return
    client = await connect(address, name="tests")
    await ensure_streams(client, StreamLimits())
    yield JetStream(client)
    await client.close()


@pytest.fixture
def subject() -> str:
    return f"events.test.{new_id()}"


@pytest_asyncio.fixture
async def own_nats(tmp_path: Path) -> AsyncIterator[RunningNats]:
    """A server that a test may fill or stop."""
    async with EmbeddedServers(tmp_path, want={"nats"}) as servers:
        yield servers.nats


def text(record: Record | None) -> str:
    assert record is not None
    return msgspec.json.decode(record.data, type=Note).text


async def take(stream: Stream, subject: str, count: int, *, after: int | None = 0) -> list[Record]:
    """The first `count` records that `follow` gives."""
    records = cast("AsyncGenerator[Record, None]", stream.follow(subject, after=after))
    async with asyncio.timeout(WAIT_S), aclosing(records):
        return [await anext(records) for _ in range(count)]


async def test_what_was_published_is_the_last_of_its_subject(stream: Stream, subject: str) -> None:
    first = await stream.publish(subject, Note(text="one"))
    second = await stream.publish(subject, Note(text="two"))
    assert not first.duplicate
    assert second.sequence > first.sequence
    last = await stream.last(subject)
    assert last is not None
    assert (last.sequence, last.subject) == (second.sequence, subject)
    assert last.data == b'{"text":"two"}'


async def test_what_is_encoded_already_is_stored_as_it_is(stream: Stream, subject: str) -> None:
    await stream.publish(subject, msgspec.Raw(b'{"text": "spaced"}'), message_id=new_id())
    last = await stream.last(subject)
    assert last is not None
    assert last.data == b'{"text": "spaced"}'


async def test_nothing_was_ever_last_on_a_quiet_subject(stream: Stream, subject: str) -> None:
    await stream.publish(subject, Note(text="another's"))
    assert await stream.last(f"events.test.{new_id()}") is None


async def test_the_oldest_message_and_when_it_was_stored(stream: Stream, subject: str) -> None:
    before = now() - timedelta(seconds=1)
    assert await stream.oldest(f"{subject}.>") is None
    first = await stream.publish(f"{subject}.b", Note(text="one"))
    await stream.publish(f"{subject}.a", Note(text="two"))
    for pattern in (f"{subject}.>", f"{subject}.*", f"{subject}.b"):
        oldest = await stream.oldest(pattern)
        assert oldest is not None
        assert (oldest.sequence, oldest.subject) == (first.sequence, f"{subject}.b")
        assert text(oldest) == "one"
        assert oldest.stored_at is not None
        assert before < oldest.stored_at < now() + timedelta(seconds=1)


async def test_messages_are_counted_by_subject(stream: Stream, subject: str) -> None:
    assert await stream.count(subject) == 0
    for word in ("a", "a", "b"):
        await stream.publish(f"{subject}.{word}", Note(text=word))
    await stream.publish(f"{subject}.a.deeper", Note(text="deeper"))
    await stream.publish(f"{subject}.a", Note(text="again"), message_id=subject)
    await stream.publish(f"{subject}.a", Note(text="again"), message_id=subject)
    counted = {f"{subject}.a": 3, f"{subject}.b": 1, f"{subject}.*": 4, f"{subject}.>": 5}
    assert {name: await stream.count(name) for name in counted} == counted


@pytest.mark.parametrize("name", ["jobs", "frames", "events", "dead"])
async def test_every_stream_takes_its_messages(stream: Stream, name: str) -> None:
    subject = f"{name}.test-{new_id()}"
    await stream.publish(subject, Note(text=name))
    assert text(await stream.last(subject)) == name
    assert await stream.count(subject) == 1


@pytest.mark.parametrize("pattern", ["*", ">", "*.z", "b.>"])
async def test_the_oldest_of_a_pattern_is_the_first_that_matches(
    stream: Stream, subject: str, pattern: str
) -> None:
    await stream.publish(subject, Note(text="shorter than any pattern's"))
    for name in ("a.y.more", "c", "b.z", "b", "a.z"):
        await stream.publish(f"{subject}.{name}", Note(text=name))
    expected = {"*": "c", ">": "a.y.more", "*.z": "b.z", "b.>": "b.z"}[pattern]
    oldest = await stream.oldest(f"{subject}.{pattern}")
    assert text(oldest) == expected
    assert oldest is not None
    assert oldest.subject == f"{subject}.{expected}"


async def test_a_handled_frame_is_not_the_oldest_any_more(nats_url: str) -> None:
    client = await connect(nats_url, name="tests")
    await ensure_streams(client, StreamLimits())
    stream = JetStream(client)
    camera = f"frames.{new_id()}.test"  # no camera's: a consumer of `frames.*` may be there
    for name in ("one", "two"):
        await stream.publish(camera, Note(text=name))
    consumer = await client.jetstream().pull_subscribe(camera, stream="FRAMES")
    (message,) = await consumer.fetch(1)
    assert text(await stream.oldest(camera)) == "one", "what is in hand waits, too"
    await message.ack_sync()
    assert text(await stream.oldest(camera)) == "two"
    (last,) = await consumer.fetch(1)
    await last.ack_sync()
    assert await stream.oldest(camera) is None
    await client.jetstream().delete_consumer("FRAMES", (await consumer.consumer_info()).name)
    await client.close()


@pytest.mark.parametrize("pattern", [">", "*"])
async def test_the_last_of_a_pattern_has_the_newest_sequence(
    stream: Stream, subject: str, pattern: str
) -> None:
    for name in ("a", "b"):
        newest = await stream.publish(f"{subject}.{name}", Note(text=name))
        last = await stream.last(f"{subject}.{pattern}")
        assert last is not None
        assert (last.sequence, text(last)) == (newest.sequence, name)


async def test_a_repeated_message_id_stores_nothing(stream: Stream, subject: str) -> None:
    message_id = new_id()
    first = await stream.publish(subject, Note(text="first"), message_id=message_id)
    again = await stream.publish(subject, Note(text="second"), message_id=message_id)
    assert (again.duplicate, again.sequence) == (True, first.sequence)
    assert text(await stream.last(subject)) == "first"


async def test_a_message_id_is_known_on_every_subject_of_a_stream(
    stream: Stream, subject: str
) -> None:
    message_id = new_id()
    other = f"events.test.{new_id()}"
    await stream.publish(subject, Note(text="a"), message_id=message_id)
    assert (await stream.publish(other, Note(text="b"), message_id=message_id)).duplicate
    assert await stream.last(other) is None


async def test_a_message_id_of_one_stream_is_free_in_another(stream: Stream, subject: str) -> None:
    message_id = new_id()
    await stream.publish(subject, Note(text="fact"), message_id=message_id)
    letter = await stream.publish("dead.test", Note(text="letter"), message_id=message_id)
    assert not letter.duplicate


async def test_of_many_at_once_with_one_message_id_one_is_stored(
    stream: Stream, subject: str
) -> None:
    message_id = new_id()
    receipts = await asyncio.gather(
        *(stream.publish(subject, Note(text=str(n)), message_id=message_id) for n in range(50))
    )
    assert [receipt.duplicate for receipt in receipts].count(False) == 1
    assert len({receipt.sequence for receipt in receipts}) == 1


async def test_followers_get_the_past_in_order_and_then_the_present(
    stream: Stream, subject: str
) -> None:
    for number in range(3):
        await stream.publish(subject, Note(text=str(number)))
    following = asyncio.create_task(take(stream, subject, 6))
    for number in range(3, 6):
        await stream.publish(subject, Note(text=str(number)))
    records = await following
    assert [text(record) for record in records] == list("012345")
    assert {record.subject for record in records} == {subject}


async def test_following_begins_after_a_sequence(stream: Stream, subject: str) -> None:
    receipts = [await stream.publish(subject, Note(text=str(number))) for number in range(4)]
    records = await take(stream, subject, 2, after=receipts[1].sequence)
    assert [record.sequence for record in records] == [r.sequence for r in receipts[2:]]


async def test_following_after_the_newest_waits_for_the_next(stream: Stream, subject: str) -> None:
    newest = await stream.publish(subject, Note(text="old"))
    following = asyncio.create_task(take(stream, subject, 1, after=newest.sequence))
    done, _ = await asyncio.wait({following}, timeout=0.2)
    assert not done, "something came that was not new"
    await stream.publish(subject, Note(text="new"))
    assert [text(record) for record in await following] == ["new"]


async def test_following_from_now_on_gives_nothing_of_the_past(
    stream: Stream, subject: str
) -> None:
    for number in range(3):
        await stream.publish(subject, Note(text=str(number)))
    records = cast("AsyncGenerator[Record, None]", stream.follow(subject, after=None))
    async with asyncio.timeout(WAIT_S), aclosing(records):
        first = asyncio.create_task(anext(records))
        done, _ = await asyncio.wait({first}, timeout=0.3)
        assert not done, "something came that was not new"
        for number in range(3, 6):
            await stream.publish(subject, Note(text=str(number)))
        found = [await first] + [await anext(records) for _ in range(2)]
    assert [text(record) for record in found] == list("345")


async def test_following_from_now_on_where_nothing_ever_was(stream: Stream, subject: str) -> None:
    following = asyncio.create_task(take(stream, subject, 1, after=None))
    done, _ = await asyncio.wait({following}, timeout=0.3)
    assert not done
    await stream.publish(subject, Note(text="first"))
    assert [text(record) for record in await following] == ["first"]


async def test_followers_hear_their_own_subject_alone(stream: Stream, subject: str) -> None:
    following = asyncio.create_task(take(stream, subject, 2))
    for name in (subject, f"{subject}.deeper", f"events.test.{new_id()}", subject):
        await stream.publish(name, Note(text=name))
    assert [text(record) for record in await following] == [subject, subject]


@pytest.mark.parametrize("pattern", ["*", ">"])
async def test_a_pattern_follows_many_subjects(stream: Stream, subject: str, pattern: str) -> None:
    for word in ("a", "b", "c"):
        await stream.publish(f"{subject}.{word}", Note(text=word))
    records = await take(stream, f"{subject}.{pattern}", 3)
    assert [text(record) for record in records] == ["a", "b", "c"]


async def test_two_followers_get_all_of_it_each(stream: Stream, subject: str) -> None:
    both = [asyncio.create_task(take(stream, subject, 20)) for _ in range(2)]
    for number in range(20):
        await stream.publish(subject, Note(text=str(number)))
    expected = [str(number) for number in range(20)]
    for records in await asyncio.gather(*both):
        assert [text(record) for record in records] == expected


async def test_a_server_that_runs_is_healthy(stream: Stream) -> None:
    assert await stream.healthy()


async def test_a_full_queue_takes_nothing_and_says_so(own_nats: RunningNats) -> None:
    client = await connect(own_nats.url, name="tests")
    await ensure_streams(client, StreamLimits(jobs_max_messages=3))
    fake = FakeStream(max_messages={"jobs": 3})
    for stream in (JetStream(client), fake):
        for number in range(3):
            await stream.publish("jobs.test", Note(text=str(number)), message_id=str(number))
        with pytest.raises(QueueFull) as caught:
            await stream.publish("jobs.test", Note(text="3"), message_id="3")
        assert caught.value.code == "queue_full"
        assert text(await stream.last("jobs.test")) == "2"
        known = await stream.publish("jobs.test", Note(text="2"), message_id="2")
        assert known.duplicate, "what is stored already needs no room"
        await stream.publish("events.test", Note(text="facts have their own room"))
    await client.close()
    fake.forget("jobs.test")
    assert not (await fake.publish("jobs.test", Note(text="room"), message_id="3")).duplicate


async def test_what_a_lost_server_refused_is_not_stored_when_it_returns(
    own_nats: RunningNats,
) -> None:
    client = await connect(own_nats.url, name="tests")
    await ensure_streams(client, StreamLimits())
    stream = JetStream(client)
    await stream.publish("events.test", Note(text="before"))
    await own_nats.process.stop()
    assert not await stream.healthy()
    await _is_unavailable(stream)
    await own_nats.process.restart()
    async with asyncio.timeout(WAIT_S):
        while not await stream.healthy():
            await asyncio.sleep(0.02)
    receipt = await stream.publish("events.test", Note(text="after"))
    assert [text(r) for r in await take(stream, "events.test", 2)] == ["before", "after"]
    assert receipt.sequence == 2
    await client.close()


async def test_a_sick_fake_is_unavailable() -> None:
    stream = FakeStream()
    stream.sick = True
    assert not await stream.healthy()
    await _is_unavailable(stream)


async def _is_unavailable(stream: Stream) -> None:
    for call in (
        stream.publish("events.test", Note(text="lost")),
        stream.last("events.test"),
        stream.oldest("events.test"),
        stream.count("events.test"),
        take(stream, "events.test", 1, after=None),
        take(stream, "events.test", 1),
    ):
        with pytest.raises(Unavailable) as caught:
            await call
        assert (caught.value.code, caught.value.backend) == ("queue_unavailable", "queue")


async def test_no_server_at_all_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jetstream, "CONNECT_TIMEOUT_S", 0.5)
    async with asyncio.timeout(WAIT_S):
        with pytest.raises(Unavailable):
            await connect("nats://127.0.0.1:1", name="tests")


async def test_followers_hear_all_once_when_the_server_starts_again(
    own_nats: RunningNats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jetstream, "FOLLOW_HEARTBEAT_S", 0.2)
    client = await connect(own_nats.url, name="tests")
    await ensure_streams(client, StreamLimits())
    stream = JetStream(client)
    seen = await stream.publish("events.test", Note(text="before"))
    records = cast("AsyncGenerator[Record, None]", stream.follow("events.test"))
    waiting = asyncio.create_task(take(stream, "events.test", 2, after=seen.sequence))
    async with asyncio.timeout(WAIT_S), aclosing(records):
        assert text(await anext(records)) == "before"
        await own_nats.process.stop()
        await own_nats.process.restart()
        while not await stream.healthy():
            await asyncio.sleep(0.02)
        for word in ("after", "later"):
            await stream.publish("events.test", Note(text=word))
            assert text(await anext(records)) == word
        assert [text(record) for record in await waiting] == ["after", "later"]
    await client.close()


async def test_followers_from_now_on_miss_nothing_and_hear_no_past_when_the_server_starts_again(
    own_nats: RunningNats, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the server went before anything new came, or after."""
    monkeypatch.setattr(jetstream, "FOLLOW_HEARTBEAT_S", 0.2)
    client = await connect(own_nats.url, name="tests")
    await ensure_streams(client, StreamLimits())
    stream = JetStream(client)
    for number in range(50):
        await stream.publish("events.test", Note(text=f"past {number}"))
    received = client.stats["in_msgs"]
    waiting = asyncio.create_task(take(stream, "events.test", 3, after=None))
    records = cast("AsyncGenerator[Record, None]", stream.follow("events.test", after=None))
    hearing = asyncio.create_task(anext(records))
    async with asyncio.timeout(WAIT_S), aclosing(records):
        while len(client._subs) < 3:  # the followers' two, and the inbox of requests
            await asyncio.sleep(0.01)
        for _ in range(2):
            await own_nats.process.stop()
            while client.is_connected:
                await asyncio.sleep(0.01)
            await own_nats.process.restart()
            # another client is back first
            other = await connect(own_nats.url, name="other")
            await JetStream(other).publish("events.test", Note(text="new"))
            await other.close()
            assert text(await hearing) == "new"
            hearing = asyncio.create_task(anext(records))
        await stream.publish("events.test", Note(text="last"))
        assert text(await hearing) == "last"
        assert [text(record) for record in await waiting] == ["new", "new", "last"]
    assert client.stats["in_msgs"] - received < 50, "the past was sent again"
    await client.close()
