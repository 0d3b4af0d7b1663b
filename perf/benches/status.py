"""`just bench status`: what a status query costs, one after the other and at a fixed rate."""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

import aiohttp
from benches.photos import fill, make_photo, upload
from measure import cpu_seconds, must, row, say, system, timed
from mixed import probe
from mixed.beside import MEASURER, beside
from mixed.figures import spread_ms

from gateway.adapters.tables import TaskTable, open_database
from gateway.runtime import required

ROWS, ASKED, WARM_UP = 100_000, 1_000, 300
PER_S, FOR_S = 50.0, 20.0
MEDIAN_S = 0.005
PARTS = ("gateway", "postgres")


async def status(options: argparse.Namespace) -> None:
    """CPU time and latency of one among 100,000 finished tasks with a result."""
    with tempfile.TemporaryDirectory(prefix="nereid-bench-") as folder:
        async with system(Path(folder)) as (running, http):
            path = await upload(http, make_photo(Path(folder), 32, 32))
            async with open_database(required(running.settings, "database_url")) as database:
                ids = (await fill(TaskTable(database), ROWS, path))[:ASKED]
            signed = {"Authorization": http.headers["Authorization"]}
            async with aiohttp.ClientSession(running.url, headers=signed) as client:
                seconds = [await timed(ask(client, task_id)) for task_id in ids[:WARM_UP]]
                before, seconds = cpu_seconds(), []
                for _ in range(options.runs):
                    seconds += [await timed(ask(client, task_id)) for task_id in ids]
                after = cpu_seconds()
            order = probe.Order(
                url=running.url,
                token=signed["Authorization"].removeprefix("Bearer "),
                per_s=PER_S,
                seconds=FOR_S,
                task_ids=ids,
            )
            script = Path(probe.__file__)
            async with beside(script, order, probe.Report, nice=MEASURER) as asking:
                found = await asking
    used = {part: 1000 * (after[part] - before.get(part, 0.0)) / len(seconds) for part in PARTS}
    row("status.one_by_one", seconds, tasks=ROWS, limit=f"median < {MEDIAN_S} s", unit="s")
    say("status.cpu", ms_a_query={part: round(ms, 3) for part, ms in used.items()}, tasks=ROWS)
    say(
        "status.open_loop",
        **spread_ms(latency for _, latency in found.answers),
        sent_late=spread_ms(found.sent_late),
        errors=found.errors,
        per_s=PER_S,
        seconds=FOR_S,
    )
    must(statistics.median(seconds) < MEDIAN_S, f"a median under {MEDIAN_S} s")
    must(not found.errors, "every query is answered well")


async def ask(client: aiohttp.ClientSession, task_id: str) -> None:
    """One query. Raises where it is not answered well."""
    async with client.get(f"{probe.TASKS}/{task_id}") as answer:
        answer.raise_for_status()
        await answer.read()
