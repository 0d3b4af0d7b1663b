"""A worker that tells when a job begins and never ends one: lease_worker.py NATS_URL ACK_WAIT_S."""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path

from functions._kit.consume import Consumer, consume
from functions._kit.messages import Message
from functions._kit.policy import Policy
from gateway.adapters.jetstream import JetStream, connect
from gateway.registry import Function
from gateway.worker import Worker


class Note(Message, frozen=True, kw_only=True):
    """Whatever the benchmark sends."""


def endless(ack_wait_s: float) -> Consumer:
    """A handler that says the time, then holds its lease."""

    @consume("jobs.bench.lease", policy=Policy(ack_wait_s=ack_wait_s, timeout_s=3600.0))
    async def hold(_: Note) -> None:
        print(time.time(), flush=True)
        await asyncio.Event().wait()

    return hold


async def main(url: str, ack_wait_s: str) -> None:
    """Work until killed."""
    client = await connect(url, name="lease-worker")
    stream = JetStream(client, clustered=True)
    function = Function("bench.lease", "holds its lease", [], [endless(float(ack_wait_s))])
    ready = asyncio.Event()
    with tempfile.TemporaryDirectory() as folder:
        probes = {"queue": stream.whole}
        worker = Worker([function], {}, stream, probes, scratch=Path(folder), drain_s=0.0)
        working = asyncio.create_task(worker.run(asyncio.Event(), ready))
        await ready.wait()
        print("ready", flush=True)
        await working


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
