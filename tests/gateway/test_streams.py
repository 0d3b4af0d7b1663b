"""The streams that Nereid keeps, on a NATS of the test's own."""

from __future__ import annotations

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
