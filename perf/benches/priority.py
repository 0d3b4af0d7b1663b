"""`just bench priority`: urgent tasks while thousands of others wait."""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import chain
from pathlib import Path
from typing import Any

import httpx
from benches.photos import make_photo, process, upload
from loading.summary import percentile
from measure import say, system, timed
from mixed.figures import Limit, limits_table, none_of, spread_ms, table
from nats.aio.client import Client

from functions._kit.messages import now
from gateway.adapters.jetstream import connect
from gateway.adapters.tables import Database, open_database
from gateway.runtime import required

SIZE = (320, 180)
URGENT, LOW = 9, 1
EACH = 20
"""Urgent tasks of one half of a round, one after the other."""
WARM_UP = 10
AT_ONCE = 16
"""Requests, when thousands of tasks are started and cancelled."""
LOOK_S = 0.2
FIRST, NEXT = "media_upscale_low", "media_thumbnail_low"
"""Consumers of the steps that a low task goes through."""
PAUSE = timedelta(hours=1)
MOST = 1.3
TASKS = "/api/v1/media/processingTasks"


async def priority(options: argparse.Namespace) -> None:
    """Rounds of an idle and a loaded half; the low ones are halted in the idle one."""
    with tempfile.TemporaryDirectory(prefix="nereid-bench-") as name:
        folder = Path(name)
        async with (
            system(folder) as (running, http),
            open_database(required(running.settings, "database_url")) as database,
            connected(required(running.settings, "nats_url")) as client,
        ):
            path = await upload(http, make_photo(folder, *SIZE))
            bench = Bench(http, database, client, path)
            await bench.urgent(WARM_UP)
            alone = await bench.urgent(EACH)
            progress(f"alone: p95 {p95(alone):.2f} s")
            await bench.halt()
            low = await bench.start_low(options.waiting)
            progress(f"{len(low)} low ones are accepted")
            for number in range(options.runs):
                await bench.round(idle_first=number % 2 == 0)
            states = await bench.cancel(low)
    limits = bench.judge(len(low), states)
    tell(bench, alone, states, limits, options)
    if not all(limit.met for limit in limits):
        sys.exit(1)


@dataclass
class Bench:
    """The system, and what was found: seconds of urgent tasks, a list for each half."""

    http: httpx.AsyncClient
    database: Database
    client: Client
    path: str
    idle: list[list[float]] = field(default_factory=list)
    loaded: list[list[float]] = field(default_factory=list)
    low_done: list[int] = field(default_factory=list)
    """In each loaded half."""

    async def round(self, *, idle_first: bool) -> None:
        """Both halves, each of which begins once the system is in its state."""
        halves = [self._idle, self._loaded]
        for half in halves if idle_first else reversed(halves):
            await half()

    async def _idle(self) -> None:
        await self.halt()
        self.idle.append(await self.urgent(EACH))
        progress(f"round {len(self.idle)}, idle: p95 {p95(self.idle[-1]):.2f} s")

    async def _loaded(self) -> None:
        await self.go_on()
        before = (await self.low_states()).get("completed", 0)
        self.loaded.append(await self.urgent(EACH))
        self.low_done.append((await self.low_states()).get("completed", 0) - before)
        what = f"p95 {p95(self.loaded[-1]):.2f} s, {self.low_done[-1]} low ones done"
        progress(f"round {len(self.loaded)}, loaded: {what}")

    async def urgent(self, count: int) -> list[float]:
        """Seconds of each, from the POST to its result, as one impatient person has them."""
        return [await timed(process(self.http, self.path, priority=URGENT)) for _ in range(count)]

    async def halt(self) -> None:
        """Let no further low task begin, and wait until those at work are through all steps."""
        await self._pause(until=(now() + PAUSE).isoformat())
        async with asyncio.timeout(600):
            while await self._at_work(FIRST) or await self._at_work(NEXT, waiting=True):
                await asyncio.sleep(LOOK_S)

    async def go_on(self) -> None:
        """Let low tasks begin, and wait until one has."""
        await self._pause(until=None)
        async with asyncio.timeout(600):
            while not await self._at_work(FIRST):
                await asyncio.sleep(LOOK_S)

    async def _at_work(self, durable: str, *, waiting: bool = False) -> int:
        """Low tasks that a worker has in hand, and with `waiting` those behind them; at once.

        The tasks' rows are written in batches, and would tell too late.
        """
        info = await self.client.jetstream().consumer_info("JOBS", durable)
        return (info.num_ack_pending or 0) + ((info.num_pending or 0) if waiting else 0)

    async def _pause(self, until: str | None) -> None:
        """JetStream's own: nothing is delivered until then; what waits, waits."""
        asked = json.dumps({"pause_until": until} if until else {}).encode()
        answer = await self.client.request(
            f"$JS.API.CONSUMER.PAUSE.JOBS.{FIRST}", asked, timeout=10
        )
        said = json.loads(answer.data)
        if said.get("error") or said.get("paused", False) is not (until is not None):
            raise RuntimeError(f"JetStream does not pause {FIRST}: {said}")

    async def start_low(self, count: int) -> list[str]:
        """So many tasks, accepted; their ids."""
        body = {"file_path": self.path, "workflow": "nas-photo-processing", "priority": LOW}

        async def one(_: object) -> str:
            answer = await self.http.post("/api/v1/media:process", json=body)
            answer.raise_for_status()
            return str(answer.json()["task_id"])

        return await gathered(one, range(count))

    async def cancel(self, task_ids: Sequence[str]) -> dict[str, int]:
        """End what still waits; the states of all, once all are final."""

        async def one(task_id: str) -> None:
            answer = await self.http.post(f"{TASKS}/{task_id}:cancel")
            if answer.status_code != 409:  # it is done
                answer.raise_for_status()

        await gathered(one, task_ids)
        await self._pause(until=None)
        states: dict[str, int] = {}
        async with asyncio.timeout(600):
            while not states or states.keys() & {"queued", "processing"}:
                await asyncio.sleep(LOOK_S)
                states = await self.low_states()
        return states

    async def low_states(self) -> dict[str, int]:
        """How many of the low tasks are in which state."""
        rows = await self.database.fetch(
            "SELECT status, count(*) AS tasks FROM tasks WHERE priority = %s GROUP BY status",
            [LOW],
        )
        return {row["status"]: row["tasks"] for row in rows}

    @property
    def ratios(self) -> list[float]:
        """Of each round: p95 loaded / p95 idle."""
        return [
            p95(loaded) / p95(idle) for loaded, idle in zip(self.loaded, self.idle, strict=True)
        ]

    def judge(self, accepted: int, states: dict[str, int]) -> list[Limit]:
        """Every limit with what was measured."""
        ended = states.get("completed", 0) + states.get("cancelled", 0)
        halted = sum(done == 0 for done in self.low_done)
        return [
            Limit(
                what="p95 of urgent tasks, loaded / idle, median of rounds",
                measured=statistics.median(self.ratios),
                most=MOST,
                unit="",
                strictly=False,
            ),
            none_of("rounds in which no low task was done", halted),
            none_of("low tasks lost or failed", accepted - ended),
        ]


def progress(sentence: str) -> None:
    """Tell whoever waits."""
    sys.stderr.write(sentence + "\n")


def p95(seconds: Sequence[float]) -> float:
    """In seconds."""
    return percentile(sorted(seconds), 95)


def tell(
    bench: Bench,
    alone: list[float],
    states: dict[str, int],
    limits: list[Limit],
    options: argparse.Namespace,
) -> None:
    """One row, and the same as tables."""
    halves = {"alone": [alone], "idle": bench.idle, "loaded": bench.loaded}
    say(
        "priority",
        ratio_of_p95=round(statistics.median(bench.ratios), 3),
        ratios=[round(ratio, 3) for ratio in bench.ratios],
        pooled_ratio=round(p95([*chain(*bench.loaded)]) / p95([*chain(*bench.idle)]), 3),
        urgent={name: [spread_ms(half) for half in found] for name, found in halves.items()},
        low_done=bench.low_done,
        low_states=states,
        waiting=options.waiting,
        rounds=options.runs,
        urgent_each=EACH,
        priorities={"urgent": URGENT, "low": LOW},
        photo=f"{SIZE[0]}x{SIZE[1]} JPEG by 2",
        halves="alone: before any low task; idle: they wait, their consumer paused; loaded: not so",
        limits=[limit.facts() for limit in limits],
    )
    rows = [
        (number, 1000 * p95(idle), 1000 * p95(loaded), ratio, done)
        for number, (idle, loaded, ratio, done) in enumerate(
            zip(bench.idle, bench.loaded, bench.ratios, bench.low_done, strict=True)
        )
    ]
    heads = ("round", "idle p95_ms", "loaded p95_ms", "ratio", "low done")
    print(f"\nalone: p95 {1000 * p95(alone):.0f} ms\n\n{table(heads, rows)}")
    print(f"\n{limits_table(limits)}", flush=True)


async def gathered(work: Callable[[Any], Awaitable[Any]], each: Sequence[Any]) -> list[Any]:
    """`work` on each, `AT_ONCE` at a time."""
    turn = asyncio.Semaphore(AT_ONCE)

    async def one(item: Any) -> Any:
        async with turn:
            return await work(item)

    return await asyncio.gather(*map(one, each))


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Client]:
    """NATS."""
    client = await connect(url, name="bench")
    try:
        yield client
    finally:
        await client.close()
