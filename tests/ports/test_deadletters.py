"""One suite over the fake and over a real NATS server: what `DeadLetters` promises."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from functions._kit.errors import QueueFull, Unavailable
from functions._kit.fakes import FakeDeadLetters, FakeStream
from functions._kit.letters import MAX_PAYLOAD_BYTES
from functions._kit.messages import new_id, now
from functions._kit.ports import DeadLetters, Letter
from functions.tasks.contracts import DeadLetter
from gateway.adapters.deadletters import JetStreamDeadLetters
from gateway.adapters.jetstream import JetStream, StreamLimits, connect, ensure_streams
from gateway.embedded import EmbeddedServers, RunningNats


@dataclass(frozen=True, slots=True)
class Post:
    """Letters, and the stream that they come from."""

    letters: DeadLetters
    stream: JetStream | FakeStream
    function: str
    """One of the test's own: other tests leave letters in the same stream."""

    @property
    def subject(self) -> str:
        return f"jobs.{self.function}.normal"

    async def bury(self, payload: bytes = b"{}", function: str = "") -> int:
        function = function or self.function
        letter = DeadLetter(
            subject=self.subject,
            function=function,
            code="too_slow",
            message="too slow",
            attempts=3,
            at=now(),
            payload=payload,
        )
        return (await self.stream.publish(f"dead.{function}", letter)).sequence

    async def numbers(self, limit: int = 100, before: int | None = None) -> list[int]:
        page = await self.letters.page(function=self.function, before=before, limit=limit)
        return [letter.number for letter in page]


@pytest.fixture(params=["fake", "jetstream"])
def address(request: pytest.FixtureRequest) -> str | None:
    """Where the real server is; None for the fake. Not async: it may start the server."""
    return str(request.getfixturevalue("nats_url")) if request.param == "jetstream" else None


@pytest.fixture
def function() -> str:
    return "test.f" + new_id().replace("-", "")


@pytest_asyncio.fixture
async def post(address: str | None, function: str) -> AsyncIterator[Post]:
    if address is None:
        fake = FakeStream()
        yield Post(FakeDeadLetters(fake), fake, function)
        return
    client = await connect(address, name="tests")
    await ensure_streams(client, StreamLimits())
    stream = JetStream(client)
    yield Post(JetStreamDeadLetters(stream), stream, function)
    await client.close()


@pytest_asyncio.fixture
async def own_nats(tmp_path: Path) -> AsyncIterator[RunningNats]:
    """A server that a test may fill or stop."""
    async with EmbeddedServers(tmp_path, want={"nats"}) as servers:
        yield servers.nats


async def test_a_letter_is_read_by_its_number(post: Post) -> None:
    number = await post.bury(b"\x00\xff")
    letter = await post.letters.get(number)
    assert letter is not None
    assert letter.number == number
    content = letter.content
    assert (content.subject, content.function) == (post.subject, post.function)
    assert (content.code, content.attempts, content.payload) == ("too_slow", 3, b"\x00\xff")
    assert await post.letters.page(function=post.function, before=None, limit=9) == [letter]


async def test_what_is_not_there_is_none(post: Post) -> None:
    number = await post.bury()
    for absent in (number + 1000, 0, -1, 1 << 63, 1 << 64):
        assert await post.letters.get(absent) is None
        assert not await post.letters.remove(absent)
    assert await post.letters.page(function="test.absent", before=None, limit=9) == []
    for before in (1, 0, -1):
        assert await post.letters.page(function=None, before=before, limit=9) == []
    assert await post.numbers(before=1 << 64) == [number]


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 8])
async def test_pages_go_back_through_all_letters_once(post: Post, limit: int) -> None:
    mine: list[int] = []
    for number in range(7):
        mine.append(await post.bury())
        for _ in range(number):
            await post.bury(function="test.another")
    found: list[int] = []
    before: int | None = None
    while page := await post.numbers(limit, before):
        assert len(page) <= limit
        found += page
        before = page[-1]
        await post.bury()  # what is new comes into no later page
    assert found == mine[::-1]


async def test_letters_of_all_functions_come_newest_first(post: Post) -> None:
    numbers = [await post.bury(function=name) for name in ("test.a", "test.b", "test.a")]
    page = await post.letters.page(function=None, before=None, limit=3)
    assert [letter.number for letter in page] == numbers[::-1]
    page = await post.letters.page(function=None, before=numbers[-1], limit=2)
    assert [letter.number for letter in page] == numbers[-2::-1]


async def test_gaps_where_letters_were_removed_are_passed_over(post: Post) -> None:
    numbers = [await post.bury() for _ in range(30)]
    for number in numbers[5:25]:
        assert await post.letters.remove(number)
    kept = numbers[:5] + numbers[25:]
    assert await post.numbers() == kept[::-1]
    assert await post.numbers(limit=7) == kept[:2:-1]
    assert await post.numbers(before=numbers[20]) == numbers[4::-1]


async def test_a_letter_is_removed_once(post: Post) -> None:
    number, other = await post.bury(), await post.bury()
    removed = await asyncio.gather(*(post.letters.remove(number) for _ in range(5)))
    assert removed.count(True) == 1
    assert await post.letters.get(number) is None
    assert await post.numbers() == [other]


async def test_the_letters_of_one_function_are_purged_and_counted(post: Post) -> None:
    for _ in range(3):
        await post.bury()
    other = await post.bury(function="test.another")
    assert await post.letters.purge(function=post.function) == 3
    assert await post.numbers() == []
    assert await post.letters.purge(function=post.function) == 0
    assert await post.letters.get(other) is not None


async def test_all_letters_are_purged(post: Post) -> None:
    await post.bury()
    await post.bury(function="test.another")
    assert await post.letters.purge(function=None) >= 2
    assert await post.letters.page(function=None, before=None, limit=1) == []


async def test_a_letter_sent_again_is_where_it_came_from_and_no_longer_dead(post: Post) -> None:
    payload = b'{"as it":  "was"}'
    number = await post.bury(payload)
    letter = await post.letters.get(number)
    assert letter is not None
    await post.letters.send_again(letter)
    last = await post.stream.last(post.subject)
    assert last is not None
    assert last.data == payload
    assert await post.letters.get(number) is None


async def test_sending_again_after_a_crash_publishes_nothing_new(post: Post) -> None:
    letter = await post.letters.get(await post.bury())
    assert letter is not None
    for _ in range(2):  # as if the removal of the first had not been
        await post.letters.send_again(letter)
    assert await post.stream.count(post.subject) == 1


async def test_what_is_no_letter_is_shown_as_one_from_nowhere(post: Post) -> None:
    for junk in (b"", b"\xff", b"{}", b'{"subject":"\xff"}'):
        receipt = await post.stream.publish_bytes(f"dead.{post.function}", junk)
        (letter,) = await post.letters.page(function=post.function, before=None, limit=1)
        assert letter.number == receipt.sequence
        content = letter.content
        assert (content.subject, content.function) == ("", post.function)
        assert (content.code, content.payload) == ("unreadable_letter", junk)
        one = await post.letters.get(letter.number)
        assert one is not None
        assert one.content.payload == junk
        assert await post.letters.remove(letter.number)


async def test_a_page_of_the_largest_letters_is_whole(post: Post) -> None:
    numbers = [await post.bury(bytes([n]) * MAX_PAYLOAD_BYTES) for n in range(12)]
    page = await post.letters.page(function=post.function, before=None, limit=12)
    assert [letter.number for letter in page] == numbers[::-1]
    assert {len(letter.content.payload) for letter in page} == {MAX_PAYLOAD_BYTES}


async def test_a_full_queue_keeps_the_letter(own_nats: RunningNats) -> None:
    client = await connect(own_nats.url, name="tests")
    await ensure_streams(client, StreamLimits(jobs_max_messages=1))
    real, fake = JetStream(client), FakeStream(max_messages={"jobs": 1})
    for post in (
        Post(JetStreamDeadLetters(real), real, "test.full"),
        Post(FakeDeadLetters(fake), fake, "test.full"),
    ):
        await post.stream.publish_bytes(post.subject, b"first")
        letter = await post.letters.get(await post.bury())
        assert letter is not None
        with pytest.raises(QueueFull):
            await post.letters.send_again(letter)
        assert await post.letters.get(letter.number) == letter
    await client.close()


async def test_a_page_among_many_letters_comes_at_once(own_nats: RunningNats) -> None:
    """Newest first, of a function that few letters are of, the first of them far back."""
    client = await connect(own_nats.url, name="tests")
    await ensure_streams(client, StreamLimits())
    stream = JetStream(client)
    post = Post(JetStreamDeadLetters(stream), stream, "test.rare")
    rare = [await post.bury() for _ in range(30)]
    js = client.jetstream()
    for _ in range(20):
        pending = [await js.publish_async("dead.test.often", b"{}") for _ in range(1000)]
        await asyncio.gather(*pending)
    rare += [await post.bury() for _ in range(5)]
    requests = client.stats["out_msgs"]
    assert await post.numbers(limit=10) == rare[:-11:-1]
    assert await post.numbers(limit=10, before=rare[25]) == rare[24:14:-1]
    often = await post.letters.page(function="test.often", before=None, limit=50)
    assert [letter.number for letter in often] == list(range(rare[30] - 1, rare[30] - 51, -1))
    assert client.stats["out_msgs"] - requests < 120
    await client.close()


async def test_a_lost_server_is_unavailable(own_nats: RunningNats) -> None:
    client = await connect(own_nats.url, name="tests")
    await ensure_streams(client, StreamLimits())
    stream = JetStream(client)
    post = Post(JetStreamDeadLetters(stream), stream, "test.lost")
    number = await post.bury()
    await own_nats.process.stop()
    async with asyncio.timeout(60):
        while client.is_connected:
            await asyncio.sleep(0.01)
    await _is_unavailable(post, number)
    await client.close()


async def test_a_sick_fake_is_unavailable() -> None:
    stream = FakeStream()
    post = Post(FakeDeadLetters(stream), stream, "test.sick")
    number = await post.bury()
    stream.sick = True
    await _is_unavailable(post, number)


async def _is_unavailable(post: Post, number: int) -> None:
    content = DeadLetter(
        subject="jobs.test.lost",
        function="",
        code="",
        message="",
        attempts=1,
        at=now(),
        payload=b"",
    )
    for call in (
        post.letters.page(function=None, before=None, limit=1),
        post.letters.get(number),
        post.letters.send_again(Letter(number, content)),
        post.letters.remove(number),
        post.letters.purge(function=None),
    ):
        with pytest.raises(Unavailable) as caught:
            await call
        assert (caught.value.code, caught.value.backend) == ("queue_unavailable", "queue")
