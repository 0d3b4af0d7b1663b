"""`just bench start`: how long `nereid up` takes on the data folder of a system that was killed."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
from measure import must, say

from gateway.adapters.jetstream import JetStream, connect
from gateway.settings import RUNNING

MESSAGES = 100_000
AT_ONCE = 1000
NEREID = Path(sys.executable).with_name("nereid")
LOADED = "models    loaded"
READY_S = 5.0


async def start(options: argparse.Namespace) -> None:
    """Kill everything and start again, `--runs` times, with 100,000 messages in the streams."""
    with tempfile.TemporaryDirectory(prefix="nereid-start-") as folder:
        data = Path(folder) / "data"
        system = await asyncio.to_thread(_start, data)
        try:
            await _fill(data)
            taken = []
            for run in range(1, options.runs + 1):
                await asyncio.to_thread(system.kill)
                system = await asyncio.to_thread(_start, data)
                taken.append(system.ready_s)
                say(
                    "nereid up after kill -9 of everything",
                    run=run,
                    messages=MESSAGES,
                    ready_s=round(system.ready_s, 2),
                    models_loaded_s=round(system.loaded_s, 2),
                )
            say(
                "slowest of all", runs=options.runs, ready_s=round(max(taken), 2),
                limit_s=READY_S, held=max(taken) < READY_S,
            )  # fmt: skip
            must(max(taken) < READY_S, f"ready in {READY_S:g} s")
        finally:
            await asyncio.to_thread(system.kill)


@dataclass(frozen=True)
class _Up:
    """A `nereid up` and the seconds that it took."""

    process: subprocess.Popen[str]
    ready_s: float
    loaded_s: float

    def kill(self) -> None:
        """Kill -9 of everything, the parent first, so that nobody tidies up."""
        up = psutil.Process(self.process.pid)
        family = [up, *up.children(recursive=True)]
        for one in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        psutil.wait_procs(family, timeout=60)
        self.process.wait()
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()


def _start(data: Path) -> _Up:
    began = time.perf_counter()
    process = subprocess.Popen(
        [NEREID, "up", "--data", str(data), "--port", "0"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    line = process.stdout.readline()
    ready_s = time.perf_counter() - began
    if not line.startswith("ready "):
        raise RuntimeError(process.stderr.read())
    for line in process.stderr:
        if line.startswith(LOADED):
            return _Up(process, ready_s, time.perf_counter() - began)
    raise RuntimeError("nereid up has ended")


async def _fill(data: Path) -> None:
    """Half of the messages are jobs that nobody takes, half are facts."""
    running = json.loads((data / RUNNING).read_text())
    client = await connect(running["nats_url"], name="bench")
    try:
        stream = JetStream(client)
        body = b"x" * 500
        for first in range(0, MESSAGES, AT_ONCE):
            await asyncio.gather(
                *(
                    stream.publish_bytes(
                        f"{('jobs', 'events')[n % 2]}.bench.{n % 1000}", body, message_id=f"b{n}"
                    )
                    for n in range(first, first + AT_ONCE)
                )
            )
    finally:
        await client.close()
