"""The NATS cluster, and a connection to it that no fault is meant for."""

from __future__ import annotations

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

from gateway.embedded import RunningCluster, nats_cluster

ASK_S = 2.0


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
        with contextlib.suppress(nats.errors.Error, nats.js.errors.Error, TimeoutError):
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
