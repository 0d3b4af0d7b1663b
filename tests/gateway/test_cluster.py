"""A real NATS cluster of three: what must hold when the leader of a stream dies."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from nats.aio.client import Client

from functions._kit.errors import Unavailable
from functions._kit.messages import new_id
from gateway.adapters.jetstream import StreamLimits, connect, ensure_streams, servers_of
from gateway.adapters.keyvalue import BUCKETS, JetStreamKeyValue, ensure_buckets
from gateway.embedded import RunningCluster, nats_cluster

WAIT_S = 120
LIMITS = StreamLimits(replicas=3)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningCluster]:
    async with nats_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest_asyncio.fixture(loop_scope="module")
async def cluster(running: RunningCluster) -> AsyncIterator[RunningCluster]:
    """All servers run, before the test and after it."""
    yield running
    for process in running.servers.values():
        if process.ended:
            await process.restart()
    await running.whole()


@pytest_asyncio.fixture(loop_scope="module")
async def client(cluster: RunningCluster) -> AsyncIterator[Client]:
    client = await connect(cluster.url, name="test")
    await ensure_streams(client, LIMITS)
    await ensure_buckets(client, LIMITS.replicas)
    yield client
    await client.close()


async def kill(cluster: RunningCluster, name: str) -> None:
    process = cluster.servers[name]
    os.kill(process.pid, signal.SIGKILL)
    await process.exited()


@pytest.mark.asyncio(loop_scope="module")
async def test_every_stream_and_bucket_has_a_copy_on_each_server(client: Client) -> None:
    infos = await client.jetstream().streams_info()
    names = {info.config.name for info in infos}
    assert names >= {"JOBS", "FRAMES", "EVENTS", "DEAD", *(f"KV_{name}" for name in BUCKETS)}
    assert {info.config.num_replicas for info in infos} == {3}


@pytest.mark.asyncio(loop_scope="module")
async def test_streams_and_buckets_are_made_while_their_leaders_are_elected(
    cluster: RunningCluster, client: Client
) -> None:
    await kill(cluster, await cluster.leader("JOBS"))
    await ensure_streams(client, LIMITS)
    await ensure_buckets(client, LIMITS.replicas)
    values = JetStreamKeyValue(client)
    key = new_id()
    async with asyncio.timeout(WAIT_S):
        while True:
            try:
                await values.put("models", key, b"value")
                break
            except Unavailable:
                continue
    entry = await values.get("models", key)
    assert entry is not None
    assert entry.value == b"value"


@pytest.mark.asyncio(loop_scope="module")
async def test_more_replicas_than_servers_are_refused_with_the_reason(nats_url: str) -> None:
    client = await connect(nats_url, name="test")
    with pytest.raises(Unavailable, match="replicas > 1 not supported in non-clustered mode"):
        await ensure_streams(client, LIMITS)
    await client.close()


@pytest.mark.parametrize(
    ("url", "servers", "credentials"),
    [
        ("nats://one:4222", ["nats://one:4222"], {}),
        ("nats://u:p@one:1", ["nats://one:1"], {"user": "u", "password": "p"}),
        ("tls://t@one, tls://t@two ,", ["tls://one", "tls://two"], {"token": "t"}),
        ("u:p@one:1,u:p@two:1", ["one:1", "two:1"], {"user": "u", "password": "p"}),
    ],
)
def test_an_address_names_several_servers(
    url: str, servers: list[str], credentials: dict[str, str]
) -> None:
    assert servers_of(url) == (servers, credentials)
