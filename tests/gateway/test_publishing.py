"""Publishing where answers are lost, and where nobody takes what is published."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import nats.errors
import pytest
import pytest_asyncio
from nats.js.api import PubAck
from nats.js.errors import APIError

from functions._kit.errors import QueueFull, TooLarge, Unavailable
from functions._kit.messages import Message, new_id
from functions._kit.ports import Receipt
from gateway.adapters.jetstream import (
    JetStream,
    StreamLimits,
    connect,
    ensure_stream,
    ensure_streams,
    stream_configs,
)
from gateway.adapters.publishing import Publisher
from gateway.adapters.spare import open_spare
from gateway.embedded import EmbeddedServers, RunningNats

WAIT_S = 60


class Fact(Message, frozen=True, kw_only=True):
    text: str


class Swallower:
    """A proxy before NATS that keeps the next answers of a stream to itself."""

    def __init__(self, target: str) -> None:
        self.target = urlsplit(target)
        self.swallowed = 0
        self._word = b""
        self._meanwhile: Callable[[], Awaitable[object]] | None = None

    def swallow(
        self, stream: str, meanwhile: Callable[[], Awaitable[object]] | None = None
    ) -> None:
        """Lose the next answer that tells of a message stored; then run `meanwhile`."""
        self._word = f'"stream":"{stream}"'.encode()
        self._meanwhile = meanwhile

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        """The address that leads through here."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        try:
            yield f"nats://{self.target.username}:{self.target.password}@127.0.0.1:{port}"
        finally:
            server.close()
            await server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert self.target.hostname is not None
        above, to_nats = await asyncio.open_connection(self.target.hostname, self.target.port)
        try:
            await asyncio.gather(self._pass(reader, to_nats), self._answer(above, writer))
        finally:
            for end in (writer, to_nats):
                end.close()

    @staticmethod
    async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)
        writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Whole lines, and whole messages: what is lost of them leaves the rest readable."""
        while line := await reader.readline():
            payload = b""
            if line.startswith((b"MSG ", b"HMSG ")):
                payload = await reader.readexactly(int(line.split()[-1]) + 2)
            if self._word and self._word in payload:
                self._word, self.swallowed = b"", self.swallowed + 1
                if self._meanwhile is not None:
                    await self._meanwhile()
                continue
            writer.write(line + payload)
        writer.close()


@pytest_asyncio.fixture
async def swallower(nats_url: str) -> Swallower:
    return Swallower(nats_url)


@pytest_asyncio.fixture
async def stream(swallower: Swallower) -> AsyncIterator[JetStream]:
    """Through the proxy."""
    async with swallower.running() as url:
        client = await connect(url, name="test")
        await ensure_streams(client, StreamLimits())
        yield JetStream(client)
        await client.close()


@pytest_asyncio.fixture
async def other(nats_url: str) -> AsyncIterator[JetStream]:
    """Beside the proxy."""
    client = await connect(nats_url, name="other")
    yield JetStream(client)
    await client.close()


async def test_a_message_whose_answer_was_lost_is_stored_once_and_known_as_ours(
    stream: JetStream, swallower: Swallower
) -> None:
    subject, message_id = f"events.test.{new_id()}", new_id()
    swallower.swallow("EVENTS")
    receipt = await stream.publish(subject, Fact(text="ours"), message_id=message_id)
    assert swallower.swallowed == 1
    assert not receipt.duplicate
    last = await stream.last(subject)
    assert last is not None
    assert (last.sequence, await stream.count(subject)) == (receipt.sequence, 1)


async def test_what_somebody_else_published_first_is_not_ours_even_if_our_answer_was_lost(
    stream: JetStream, other: JetStream, swallower: Swallower
) -> None:
    subject, message_id = f"events.test.{new_id()}", new_id()
    await other.publish(subject, Fact(text="theirs"), message_id=message_id)
    swallower.swallow("EVENTS")
    receipt = await stream.publish(subject, Fact(text="ours"), message_id=message_id)
    assert swallower.swallowed == 1
    assert receipt.duplicate
    assert await stream.count(subject) == 1


async def test_a_job_whose_answer_was_lost_and_that_was_done_meanwhile_is_ours(
    stream: JetStream, other: JetStream, swallower: Swallower
) -> None:
    subject = f"jobs.test.{new_id()}"
    js = other.client.jetstream()
    taking = await js.pull_subscribe(subject, stream="JOBS")

    async def do() -> None:
        (message,) = await taking.fetch(1, timeout=WAIT_S)
        await message.ack_sync()

    swallower.swallow("JOBS", do)
    receipt = await stream.publish(subject, Fact(text="job"), message_id=new_id())
    assert swallower.swallowed == 1
    assert not receipt.duplicate
    assert await stream.count(subject) == 0, "it was not stored again"
    await js.delete_consumer("JOBS", (await taking.consumer_info()).name)


async def test_a_message_without_an_id_whose_answer_was_lost_is_not_sent_again(
    stream: JetStream, swallower: Swallower, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.adapters.publishing.ASK_TIMEOUT_S", 0.2)
    subject = f"events.test.{new_id()}"
    swallower.swallow("EVENTS")
    with pytest.raises(Unavailable):
        await stream.publish(subject, Fact(text="progress"))
    assert await stream.count(subject) == 1


async def test_a_queue_that_is_full_by_our_own_lost_message_does_not_say_that_it_was_refused(
    stream: JetStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A leader of a cluster looks at the limits before it looks at message ids."""
    js = stream._publisher._js
    store = js.publish
    published: list[str] = []

    async def publish(subject: str, *args: Any, **named: Any) -> PubAck:
        published.append(subject)
        if len(published) == 1:
            await store(subject, *args, **named)
            raise nats.errors.TimeoutError
        raise APIError(code=503, err_code=10077, description="maximum messages exceeded")

    monkeypatch.setattr(js, "publish", publish)
    subject = f"frames.{new_id()}"
    with pytest.raises(Unavailable) as unknown:
        await stream.publish(subject, Fact(text="frame"), message_id=new_id())
    assert not isinstance(unknown.value, QueueFull)
    assert published == [subject] * 2
    assert await stream.count(subject) == 1
    with pytest.raises(QueueFull):
        await stream.publish(subject, Fact(text="another"), message_id=new_id())


async def test_a_message_that_is_too_large_is_not_told_to_come_again(
    stream: JetStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def publish(*_: Any, **__: Any) -> PubAck:
        raise APIError(code=400, err_code=10054, description="message size exceeds maximum allowed")

    monkeypatch.setattr(stream._publisher._js, "publish", publish)
    with pytest.raises(TooLarge):
        await stream.publish(f"frames.{new_id()}", Fact(text="frame"))


async def test_that_a_message_cannot_be_spared_is_said_once(
    stream: JetStream, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("gateway.adapters.publishing.PAUSE_S", 0.0)
    monkeypatch.setattr("gateway.adapters.publishing.SPARE_AFTER_S", 0.0)
    publisher, tries = Publisher(stream.client, clustered=True), 0

    async def fail(_: object) -> Receipt:
        nonlocal tries
        tries += 1
        if tries > 10:
            raise QueueFull("that is enough")
        raise Unavailable("queue", "nobody leads")

    monkeypatch.setattr(publisher, "_try", fail)
    with caplog.at_level(logging.WARNING), pytest.raises(QueueFull):
        await publisher.publish(f"jobs.test.{new_id()}", b"{}", {})
    assert caplog.text.count("could not be spared") == 1


@pytest_asyncio.fixture
async def own_nats(tmp_path: Path) -> AsyncIterator[RunningNats]:
    async with EmbeddedServers(tmp_path, want={"nats"}) as servers:
        yield servers.nats


async def test_what_nobody_takes_is_spared_and_moved_on_once(
    own_nats: RunningNats, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream that is not there refuses as one without a leader does."""
    monkeypatch.setattr("gateway.adapters.publishing.ASK_TIMEOUT_S", 2.0)
    client = await connect(own_nats.url, name="test")
    spare, *others = stream_configs(StreamLimits(replicas=3))
    configs = {config.name: config for config in (spare, *others)}
    for config in configs.values():
        config.num_replicas = 1
    await ensure_stream(client, spare)
    stream, js = JetStream(client, clustered=True), client.jetstream()
    receipts = [
        await stream.publish("jobs.test", Fact(text=name), message_id=name) for name in "aab"
    ]
    receipts.append(await stream.publish("frames.door", Fact(text="frame")))
    assert [(r.sequence, r.duplicate) for r in receipts] == [(0, False)] * 4
    assert (await js.stream_info("SPARE")).state.messages == 3, "'a' is there once"
    with pytest.raises(Unavailable):
        await stream.publish("events.test", Fact(text="fact"), message_id="fact")

    await ensure_stream(client, configs["JOBS"])
    await js.publish("jobs.test", b"b, stored when its answer was lost", headers=_id("b"))
    async with open_spare(stream), asyncio.timeout(WAIT_S):
        while (await js.stream_info("SPARE")).state.messages > 1:
            await asyncio.sleep(0.05)
        await ensure_stream(client, configs["FRAMES"])
        while (await js.stream_info("SPARE")).state.messages:
            await asyncio.sleep(0.05)
    assert await stream.count("jobs.test") == 2
    assert await stream.count("frames.door") == 1
    again = await stream.publish("jobs.test", Fact(text="a"), message_id="a")
    assert again.duplicate, "a caller that repeats itself begins nothing anew"
    await client.close()


def _id(message_id: str) -> dict[str, str]:
    return {"Nats-Msg-Id": message_id}
