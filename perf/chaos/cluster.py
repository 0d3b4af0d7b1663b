"""The NATS cluster, and a connection to it that no fault is meant for."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import nats
import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.js.api import DiscardPolicy, StreamConfig

from gateway.embedded import RunningCluster, nats_cluster

ASK_S = 2.0
AGAIN_S = 0.5
UNANSWERED = (nats.errors.Error, nats.js.errors.Error, TimeoutError)
RESTORED_S = 300.0
"""How long a stream's old limits are asked for again, while nobody leads."""


@dataclass(frozen=True, slots=True)
class Queue:
    """The running servers; `client` reaches them past all proxies."""

    cluster: RunningCluster
    client: Client

    @property
    def ports(self) -> dict[str, int]:
        """Of each server, by its name."""
        urls = self.cluster.url.split(",")
        return {
            name: urlsplit(url).port or 0
            for name, url in zip(self.cluster.servers, urls, strict=True)
        }

    def url_at(self, ports: Mapping[str, int]) -> str:
        """The address of all servers, each at its port of `ports`."""
        url = self.cluster.url
        for name, port in self.ports.items():
            url = url.replace(f":{port}", f":{ports[name]}")
        return url

    async def leader(self, stream: str) -> str | None:
        """The server that leads `stream`, or None while there is none."""
        with contextlib.suppress(*UNANSWERED):
            info = await self.client.jetstream(timeout=ASK_S).stream_info(stream)
            return info.cluster.leader if info.cluster is not None else None
        return None

    async def step_down(self, stream: str) -> bool:
        """Ask the leader of `stream` to hand over; whether it was heard."""
        with contextlib.suppress(nats.errors.Error, TimeoutError):
            subject = f"$JS.API.STREAM.LEADER.STEPDOWN.{stream}"
            answer = await self.client.request(subject, b"", timeout=ASK_S)
            return bool(json.loads(answer.data).get("success"))
        return False


async def fill(client: Client, stream: str) -> StreamConfig | None:
    """Leave no room for another byte in `stream`, and return its config before.

    None where nobody answered, or it is full already. What lies there stays: whatever the stream
    does when it is full, it refuses for now.
    """
    js = client.jetstream(timeout=ASK_S)
    try:
        info = await js.stream_info(stream)
    except UNANSWERED:
        return None
    before = info.config
    if (before.max_bytes or 0) > 0:
        return None
    try:
        await js.update_stream(
            before.evolve(max_bytes=max(info.state.bytes, 1), discard=DiscardPolicy.NEW)
        )
    except UNANSWERED:  # it may have been done all the same
        await restore(client, before)
        return None
    return before


async def restore(client: Client, config: StreamConfig) -> None:
    """Give a stream its limits back. Raises TimeoutError where nobody leads for too long."""
    async with asyncio.timeout(RESTORED_S):
        while True:
            with contextlib.suppress(*UNANSWERED):
                await client.jetstream(timeout=ASK_S).update_stream(config)
                return
            await asyncio.sleep(AGAIN_S)


@asynccontextmanager
async def running_queue(data: Path) -> AsyncIterator[Queue]:
    """Three servers that have elected their leaders."""
    async with nats_cluster(data) as cluster:
        client = await nats.connect(
            cluster.url.split(","),
            max_reconnect_attempts=-1,
            reconnect_time_wait=0.25,
            ping_interval=2,
            max_outstanding_pings=2,
            error_cb=_ignore,
        )
        try:
            yield Queue(cluster, client)
        finally:
            await client.close()


async def _ignore(_: Exception) -> None:
    """A server that is away is what this is about."""
