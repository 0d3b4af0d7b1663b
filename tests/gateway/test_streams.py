"""The streams that Nereid keeps, on a NATS of the test's own."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from functions._kit.errors import QueueFull
from functions._kit.messages import Message
from gateway.adapters.jetstream import JetStream, StreamLimits, connect, ensure_streams
from gateway.embedded import EmbeddedServers


class Fact(Message, frozen=True, kw_only=True):
    number: int = 0


async def test_a_full_queue_refuses_new_tasks_and_no_step_of_old_ones(tmp_path: Path) -> None:
    async with EmbeddedServers(tmp_path, want={"nats"}) as servers:
        client = await connect(servers.nats.url, name="test")
        await ensure_streams(client, StreamLimits(jobs_max_messages=2))
        await ensure_streams(client, StreamLimits(jobs_max_messages=2))  # again changes nothing
        stream = JetStream(client)
        for _ in range(2):
            await stream.publish("jobs.media.upscale.low", Fact())
        with pytest.raises(QueueFull):
            await stream.publish("jobs.media.upscale.low", Fact())
        await stream.publish("jobs.media.upscale.high", Fact())
        await stream.publish("jobs.media.thumbnail.low", Fact())
        await client.close()


async def test_a_camera_that_floods_its_queue_leaves_the_others_theirs(tmp_path: Path) -> None:
    async with EmbeddedServers(tmp_path, want={"nats"}) as servers:
        client = await connect(servers.nats.url, name="test")
        await ensure_streams(client, StreamLimits(frames_max_messages=2))
        stream = JetStream(client)
        for _ in range(2):
            await stream.publish("frames.door", Fact())
        with pytest.raises(QueueFull):
            await stream.publish("frames.door", Fact())
        await stream.publish("frames.yard", Fact())
        assert await stream.count("frames.>") == 3
        await client.close()


async def test_frames_in_hand_are_counted_until_they_are_done(tmp_path: Path) -> None:
    async with EmbeddedServers(tmp_path, want={"nats"}) as servers:
        client = await connect(servers.nats.url, name="test")
        await ensure_streams(client, StreamLimits())
        stream = JetStream(client)
        for number in range(3):
            await stream.publish("frames.door", Fact(number=number))
        pulling = await client.jetstream().pull_subscribe("frames.*", "test", stream="FRAMES")
        message, _ = await pulling.fetch(2)
        assert await stream.count("frames.door") == 3
        await message.ack_sync()
        assert await stream.count("frames.door") == 2
        await pulling.unsubscribe()
        await client.close()


async def test_a_frame_published_twice_is_one(tmp_path: Path) -> None:
    async with EmbeddedServers(tmp_path, want={"nats"}) as servers:
        client = await connect(servers.nats.url, name="test")
        await ensure_streams(client, StreamLimits())
        stream = JetStream(client)
        first = await stream.publish("frames.door", Fact(), message_id="f")
        again = await stream.publish("frames.door", Fact(), message_id="f")
        assert (first.duplicate, again.duplicate) == (False, True)
        await client.close()


async def test_streams_of_an_earlier_version_are_brought_up_to_date(tmp_path: Path) -> None:
    async with EmbeddedServers(tmp_path, want={"nats"}) as servers:
        client = await connect(servers.nats.url, name="test")
        js = client.jetstream()
        await js.add_stream(name="DEAD", subjects=["dead.>"])
        await js.publish("dead.test", b"kept")
        clients = [await connect(servers.nats.url, name="test") for _ in range(4)]
        await asyncio.gather(*(ensure_streams(other, StreamLimits()) for other in clients))
        info = await js.stream_info("DEAD")
        assert (info.config.allow_direct, info.state.messages) == (True, 1)
        for other in (client, *clients):
            await other.close()
