"""The process that asks for tasks' status at a fixed rate: probe.py, a JSON `Order` on its input.

Open loop: each question has its moment, and its latency counts from then on, whether or not
earlier ones have been answered; a system that stands still for a second cannot hide it by not
being asked. Prints JSON when the time is over.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from pathlib import Path

# run by path, with nothing of the checkout on the path but perf/
sys.path.insert(0, str(Path(__file__).parents[1]))

import aiohttp
import msgspec
import uvloop

TASKS = "/api/v1/media/processingTasks"
FRESH_S = 5.0
"""How often the ids to ask for are chosen anew."""
LONGEST_S = 30.0


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """Whom to ask, how often a second, and for how long. `task_ids` empty: the newest tasks."""

    url: str
    token: str
    per_s: float
    seconds: float
    task_ids: list[str] = []


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Latencies by the moment at which each question was due, in seconds."""

    answers: list[tuple[float, float]]
    sent_late: list[float]
    """How long after its moment each question went out: the probe's own part."""
    errors: dict[str, int]
    cpu_s: float


class Probe:
    """One run."""

    def __init__(self, http: aiohttp.ClientSession, order: Order) -> None:
        self.answers: list[tuple[float, float]] = []
        self.sent_late: list[float] = []
        self.errors: dict[str, int] = {}
        self._http = http
        self._order = order
        self._ids = list(order.task_ids)
        self._draw = random.Random(1)  # noqa: S311 - no secret

    async def run(self) -> None:
        """Ask until the time is over, and wait for the last answers."""
        choosing = None if self._ids else asyncio.create_task(self._choose())
        while not self._ids:
            await asyncio.sleep(0.1)
        began = time.perf_counter()
        asking: set[asyncio.Task[None]] = set()
        for number in range(int(self._order.seconds * self._order.per_s)):
            due = number / self._order.per_s
            if (wait := began + due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            task = asyncio.create_task(self._ask(began, due))
            asking.add(task)
            task.add_done_callback(asking.discard)
        if asking:
            await asyncio.wait(asking)
        if choosing is not None:
            choosing.cancel()

    async def _ask(self, began: float, due: float) -> None:
        path = f"{TASKS}/{self._draw.choice(self._ids)}"
        self.sent_late.append(time.perf_counter() - began - due)
        end = ""
        try:
            async with self._http.get(path) as answer:
                await answer.read()
                if answer.status != 200:
                    end = f"status: {answer.status}"
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            end = f"status: {type(error).__name__}"
        if end:
            self.errors[end] = self.errors.get(end, 0) + 1
        self.answers.append((due, time.perf_counter() - began - due))

    async def _choose(self) -> None:
        """The newest tasks, those at work among them."""
        while True:
            async with self._http.get(TASKS, params={"limit": "100"}) as answer:
                items = (await answer.json())["items"] if answer.status == 200 else []
            self._ids = [item["task_id"] for item in items] or self._ids
            await asyncio.sleep(FRESH_S)


async def run(order: Order) -> Report:
    """Measure."""
    async with aiohttp.ClientSession(
        order.url,
        headers={"Authorization": f"Bearer {order.token}"},
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=LONGEST_S),
    ) as http:
        probe = Probe(http, order)
        await probe.run()
    spent = os.times()
    return Report(
        answers=probe.answers,
        sent_late=probe.sent_late,
        errors=probe.errors,
        cpu_s=round(spent.user + spent.system, 1),
    )


def main() -> None:
    """Do what standard input says."""
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=Order)
    print(msgspec.json.encode(uvloop.run(run(order))).decode(), flush=True)


if __name__ == "__main__":
    main()
