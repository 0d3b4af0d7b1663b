"""`just bench leader` and `just bench lease`: deaths in a NATS cluster of three."""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from measure import must, row, say

from functions._kit.errors import Unavailable
from functions._kit.messages import Message, new_id
from functions._kit.policy import Policy
from gateway.adapters.jetstream import JetStream, StreamLimits, connect, ensure_streams
from gateway.adapters.keyvalue import ensure_buckets
from gateway.adapters.spare import open_spare
from gateway.embedded import RunningCluster, nats_cluster

PUBLISHES, PUBLISHERS, PAUSE_S = 2000, 8, 0.16
"""Some 50 a second, so that both deaths and what follows them lie within."""
DEATHS = (400, 1200)
"""After so many accepted ones the leader of JOBS dies."""
WORKER = Path(__file__).parents[1] / "peers" / "lease_worker.py"
ACK_WAIT_S = Policy().ack_wait_s
LONGEST_S, BEGUN_S = 5.0, ACK_WAIT_S + 5
"""Limits: without a 202 after a leader's death, and of a job whose worker died."""


class Note(Message, frozen=True, kw_only=True):
    """What is published: about as long as a job."""

    number: int
    text: str = "x" * 500


@dataclass(slots=True)
class Accepted:
    """When each publish was accepted, and how long it took."""

    at: list[float] = field(default_factory=list)
    took_s: list[float] = field(default_factory=list)
    refused: int = 0
    """Publishes that were told to come again, and did."""


async def leader(options: argparse.Namespace) -> None:
    """2,000 publishes through the real adapter, while the leader of JOBS is killed twice."""
    longest: list[float] = []
    wrong = 0
    for _ in range(options.runs):
        with tempfile.TemporaryDirectory(prefix="nereid-bench-") as folder:
            async with _stream(Path(folder)) as (cluster, stream):
                found = await _under_fire(cluster, stream)
                doubled, lost = await _compared(stream, len(found.at))
        wrong += doubled + abs(lost)
        ordered = sorted(found.at)
        gaps = [later - earlier for earlier, later in itertools.pairwise(ordered)]
        longest.append(max(gaps))
        say(
            "leader.run",
            longest_interruption_s=round(max(gaps), 3),
            slowest_publish_s=round(max(found.took_s), 3),
            accepted=len(found.at),
            refused=found.refused,
            lost=lost,
            doubled=doubled,
            deaths=len(DEATHS),
            publishers=PUBLISHERS,
            servers=len(cluster.servers),
        )
    row("leader.longest_interruption", longest, limit=f"most_s < {LONGEST_S:g}", runs=options.runs)
    must(max(longest) < LONGEST_S, f"accepted again within {LONGEST_S:g} s of a leader's death")
    must(not wrong, f"nothing is lost or doubled ({wrong} were)")


@asynccontextmanager
async def _stream(folder: Path) -> AsyncIterator[tuple[RunningCluster, JetStream]]:
    """A cluster with the streams, and the adapter as a gateway has it."""
    async with nats_cluster(folder) as cluster:
        client = await connect(cluster.url, name="bench")
        try:
            await ensure_streams(client, StreamLimits(replicas=len(cluster.servers)))
            await ensure_buckets(client, len(cluster.servers))
            stream = JetStream(client, clustered=True)
            async with open_spare(stream) as spare:
                await cluster.whole()
                await spare.part()
                yield cluster, stream
        finally:
            await client.close()


async def _under_fire(cluster: RunningCluster, stream: JetStream) -> Accepted:
    found = Accepted()
    numbers = iter(range(PUBLISHES))

    async def publish() -> None:
        for number in numbers:
            began = time.monotonic()
            while True:
                try:
                    note = Note(number=number)
                    await stream.publish("jobs.bench.leader", note, message_id=f"bench:{number}")
                    break
                except Unavailable:
                    found.refused += 1
            found.at.append(time.monotonic())
            found.took_s.append(found.at[-1] - began)
            await asyncio.sleep(PAUSE_S)

    async def kill() -> None:
        for count in DEATHS:
            while len(found.at) < count:
                await asyncio.sleep(0.05)
            victim = cluster.servers[await cluster.leader("JOBS")]
            os.kill(victim.pid, signal.SIGKILL)
            await victim.exited()
            await cluster.leader("JOBS")
            await victim.restart()
            await cluster.whole()

    await asyncio.gather(kill(), *(publish() for _ in range(PUBLISHERS)))
    return found


async def _compared(stream: JetStream, accepted: int) -> tuple[int, int]:
    """How many are there more than once, and how many are not there."""
    while await stream.count("spare.>"):
        await asyncio.sleep(0.1)
    taking = await stream.client.jetstream().pull_subscribe("jobs.bench.leader", stream="JOBS")
    seen: set[bytes] = set()
    doubled = 0
    left = await stream.count("jobs.bench.leader")
    while left:
        for message in await taking.fetch(min(left, 100), timeout=30):
            doubled += message.data in seen
            seen.add(message.data)
            await message.ack()
            left -= 1
    return doubled, accepted - len(seen)


async def lease(options: argparse.Namespace) -> None:
    """How long a job is in nobody's hands whose worker was killed, as another stands by."""
    with tempfile.TemporaryDirectory(prefix="nereid-bench-") as folder:
        async with _stream(Path(folder)) as (cluster, stream):
            waited = [await _handed_over(cluster.url, stream) for _ in range(options.runs)]
    row(
        "lease.begins_again",
        waited,
        limit=f"most_s < {BEGUN_S:g}",
        ack_wait_s=ACK_WAIT_S,
        runs=options.runs,
        servers=len(cluster.servers),
    )
    must(max(waited) < BEGUN_S, f"begun again within {BEGUN_S:g} s")


async def _handed_over(url: str, stream: JetStream) -> float:
    """Seconds from the death of the worker that has the job to its beginning in another."""
    workers = [await _worker(url) for _ in range(2)]
    try:
        await stream.publish("jobs.bench.lease", Note(number=0), message_id=new_id())
        lines = [asyncio.create_task(_line(worker)) for worker in workers]
        (first,), (waiting,) = await asyncio.wait(lines, return_when=asyncio.FIRST_COMPLETED)
        victim = workers[lines.index(first)]
        died = time.time()
        victim.kill()
        return float(await waiting) - died
    finally:
        for worker in workers:
            if worker.returncode is None:
                worker.kill()
            await worker.wait()
        await stream.client.jetstream().purge_stream("JOBS", subject="jobs.bench.lease")


async def _worker(url: str) -> asyncio.subprocess.Process:
    """One that is ready."""
    worker = await asyncio.create_subprocess_exec(
        sys.executable, str(WORKER), url, str(ACK_WAIT_S), stdout=asyncio.subprocess.PIPE
    )
    await _line(worker)
    return worker


async def _line(worker: asyncio.subprocess.Process) -> str:
    assert worker.stdout is not None
    return (await worker.stdout.readline()).decode()
