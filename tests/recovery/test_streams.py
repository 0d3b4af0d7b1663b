"""What JetStream's store has lost is told: NATS itself goes on without a word."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from nats.js.api import AckPolicy, ConsumerConfig

from gateway.adapters.jetstream import JetStream, StreamLimits, connect, ensure_streams
from gateway.embedded import EmbeddedServers, RunningNats
from gateway.embedded.marks import stream_states
from tests.recovery.killing import kill

COUNT = 200
STORE = "nats/jetstream/$G/streams"


def last_block(stream: Path) -> Path:
    return max((stream / "msgs").glob("*.blk"), key=lambda block: int(block.stem))


def keep_bytes(share: float) -> Callable[[Path], None]:
    """Cuts the last block off, mostly within a message."""

    def cut(stream: Path) -> None:
        block = last_block(stream)
        os.truncate(block, int(block.stat().st_size * share) - 7 if share else 0)

    return cut


def garble_the_middle(stream: Path) -> None:
    block = last_block(stream)
    content = bytearray(block.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 400] = b"\x5a" * 400
    block.write_bytes(content)


def garble_the_index(stream: Path) -> None:
    index = stream / "msgs" / "index.db"
    index.write_bytes(os.urandom(index.stat().st_size))


async def fill(running: RunningNats, subject: str = "jobs.nobody") -> None:
    client = await connect(running.url, name="test")
    try:
        await ensure_streams(client, StreamLimits())
        stream = JetStream(client)
        for first in range(0, COUNT, 50):
            await asyncio.gather(
                *(
                    stream.publish_bytes(f"{subject}.{n}", b"x" * 300, message_id=f"{first}-{n}")
                    for n in range(50)
                )
            )
        await running.marks.note()
    finally:
        await client.close()


async def sequences(running: RunningNats) -> tuple[int, int]:
    """Messages of JOBS, and the sequence of one more."""
    client = await connect(running.url, name="test")
    try:
        await ensure_streams(client, StreamLimits())
        info = await client.jetstream().stream_info("JOBS")
        receipt = await JetStream(client).publish_bytes("jobs.nobody.new", b"x")
        return info.state.messages, receipt.sequence
    finally:
        await client.close()


@pytest.mark.parametrize(
    ("damage", "least", "most"),
    [
        (keep_bytes(1), COUNT - 1, COUNT - 1),
        (keep_bytes(0.5), 1, COUNT - 2),
        (keep_bytes(0), 0, 0),
        (garble_the_middle, 1, COUNT - 2),
    ],
    ids=["torn", "half", "empty", "garbled"],
)
async def test_a_damaged_stream_is_told_at_the_start_and_goes_on(
    tmp_path: Path, damage: Callable[[Path], None], least: int, most: int
) -> None:
    async with EmbeddedServers(tmp_path, want={"nats"}) as servers:
        assert servers.nats.notices == ()
        await fill(servers.nats)
        await kill(servers.nats.process)
    damage(tmp_path / STORE / "JOBS")
    async with EmbeddedServers(tmp_path, want={"nats"}) as servers:
        told = re.search(
            r"the stream JOBS ends at message (\d+) and had come to 200",
            "\n".join(servers.nats.notices),
        )
        assert told is not None, servers.nats.notices
        left = int(told[1])
        assert least <= left <= most
        assert await sequences(servers.nats) == (left, left + 1)
        await servers.nats.marks.note()
    async with EmbeddedServers(tmp_path, want={"nats"}) as servers:
        assert servers.nats.notices == ()  # said once


async def test_a_stream_without_its_description_is_told_and_made_anew_with_all_it_had(
    tmp_path: Path,
) -> None:
    async with EmbeddedServers(tmp_path, want={"nats"}) as servers:
        await fill(servers.nats)
        await kill(servers.nats.process)
    (tmp_path / STORE / "JOBS" / "meta.inf").unlink()
    async with EmbeddedServers(tmp_path, want={"nats"}) as servers:
        (notice,) = servers.nats.notices
        assert "the stream JOBS was not found" in notice
        assert await sequences(servers.nats) == (COUNT, COUNT + 1)


async def test_a_message_that_was_being_written_is_told_although_no_mark_knew_it(
    tmp_path: Path,
) -> None:
    async with EmbeddedServers(tmp_path, want={"nats"}) as servers:
        await fill(servers.nats)
        messages, _ = await sequences(servers.nats)  # after the mark
        await kill(servers.nats.process)
    keep_bytes(1)(tmp_path / STORE / "JOBS")
    async with EmbeddedServers(tmp_path, want={"nats"}) as servers:
        (notice,) = servers.nats.notices
        assert "the stream JOBS ends within a message" in notice
        assert await sequences(servers.nats) == (messages, messages + 1)


async def test_a_garbled_index_loses_nothing(tmp_path: Path) -> None:
    async with EmbeddedServers(tmp_path, want={"nats"}) as servers:
        await fill(servers.nats)
    garble_the_index(tmp_path / STORE / "JOBS")
    async with EmbeddedServers(tmp_path, want={"nats"}) as servers:
        assert servers.nats.notices == ()
        assert await sequences(servers.nats) == (COUNT, COUNT + 1)


@pytest.mark.parametrize("stream", ["EVENTS", "JOBS"])
async def test_a_consumer_that_had_come_further_than_a_cut_stream_is_given_what_is_new(
    tmp_path: Path, stream: str
) -> None:
    subject = f"{stream.lower()}.nobody"
    config = ConsumerConfig(
        durable_name="nobody", filter_subject=f"{subject}.>", ack_policy=AckPolicy.EXPLICIT
    )
    acked = COUNT if stream == "EVENTS" else COUNT // 4  # JOBS would be empty
    async with EmbeddedServers(tmp_path, want={"nats"}) as servers:
        await fill(servers.nats, subject)
        client = await connect(servers.nats.url, name="test")
        jetstream = client.jetstream()
        await jetstream.add_consumer(stream, config)
        pulling = await jetstream.pull_subscribe_bind("nobody", stream)
        taken = 0
        while taken < COUNT:
            for message in await pulling.fetch(50, timeout=60):
                taken += 1
                if taken <= acked:
                    await message.ack_sync()
        await client.close()
    # Stopped, so that the consumer's place is surely on the disk, and the stream's own was not.
    (tmp_path / STORE / stream / "msgs" / "index.db").unlink()
    keep_bytes(0.75)(tmp_path / STORE / stream)
    async with EmbeddedServers(tmp_path, want={"nats"}) as servers:
        assert f"the stream {stream} ends at message" in "\n".join(servers.nats.notices)
        client = await connect(servers.nats.url, name="test")
        jetstream = client.jetstream()
        await jetstream.add_consumer(stream, config)
        await JetStream(client).publish_bytes(f"{subject}.new", b"new", message_id="new")
        pulling = await jetstream.pull_subscribe_bind("nobody", stream)
        async with asyncio.timeout(60):
            while b"new" not in [m.data for m in await pulling.fetch(50, timeout=60)]:
                pass
        await client.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"MSG _INBOX.marks.1 1 99\r\n{",
        b"MSG _INBOX.marks.1 1 1\r\n{\r\n",
        b"MSG _INB",
        b"MSG _INBOX.marks.1 1 9",
        b'MSG _INBOX.marks.1 1 16\r\n{"streams": [{}]}\r\n',
    ],
)
async def test_nats_that_dies_within_its_answer_ends_no_keeping_of_marks(answer: bytes) -> None:
    async def half(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"INFO {}\r\n" + answer)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(half, "127.0.0.1") as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(OSError):  # noqa: PT011 - a reset, or what was made of the rest
            await stream_states(port, "nereid", "secret")
