"""The process that sends a mixed load: generator.py, with a JSON `Order` on its standard input.

Prints JSON when all is over: what was done, how long it took, what went wrong.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

# run by path, with nothing of the checkout on the path but perf/
sys.path.insert(0, str(Path(__file__).parents[1]))

import aiohttp
import msgspec
import uvloop
from mixed.api import FINAL, Api, FailedError, Record
from mixed.figures import spread_ms
from mixed.users import TASKS, Kind, Load, kinds, prepare, read

LAST_TURNS_S = 120.0
"""How long those who have begun a turn have to end it."""
DRAIN_S = 300.0
PAUSE_S = 1.0
"""After something went wrong."""


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What to send, where, and for how long."""

    url: str
    key: str
    client_id: str
    secret: str
    folder: str
    seconds: float


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it."""

    done: dict[str, int]
    refused: dict[str, int]
    errors: dict[str, int]
    spread_ms: dict[str, dict[str, float]]
    accepted: int
    states: dict[str, int]
    """Of every accepted task, at the end."""
    cpu_s: float


async def run(order: Order) -> Report:
    """Send, wait for the last turns, look at every task."""
    record = Record()
    async with aiohttp.ClientSession(
        order.url,
        headers={"X-API-Key": order.key},
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=120),
    ) as http:
        load = Load(
            api=Api(http, record),
            photos=read(Path(order.folder), ".photo.jpg"),
            frames=read(Path(order.folder), ".frame.jpg"),
            clips=read(Path(order.folder), ".wav"),
            client_id=order.client_id,
            secret=order.secret,
        )
        await prepare(load)
        until = time.monotonic() + order.seconds
        users = [
            asyncio.create_task(use(kind, load, until))
            for kind in kinds(os.cpu_count() or 1)
            for _ in range(kind.users)
        ]
        _, late = await asyncio.wait(users, timeout=order.seconds + LAST_TURNS_S)
        for user in late:
            user.cancel()
            record.errors["a turn had no end"] += 1
        await asyncio.gather(*users, return_exceptions=True)
        for user in set(users) - late:
            user.result()  # a fault of our own ends the run
        states = await settled(load)
    spent = os.times()
    return Report(
        done=dict(record.done),
        refused=dict(record.refused),
        errors=dict(record.errors),
        spread_ms={kind: spread_ms(seconds) for kind, seconds in record.seconds.items()},
        accepted=len(load.accepted),
        states=states,
        cpu_s=round(spent.user + spent.system, 1),
    )


async def use(kind: Kind, load: Load, until: float) -> None:
    """One user's turns until the time is over."""
    began = time.monotonic() + load.draw.random() * kind.every_s
    await asyncio.sleep(began - time.monotonic())
    while time.monotonic() < until:
        try:
            await kind.turn(load)
        except FailedError:
            await asyncio.sleep(PAUSE_S)
        if kind.steady:
            # those that were missed are not made up for: the load is no measurement
            began = max(began + kind.every_s, time.monotonic())
            await asyncio.sleep(began - time.monotonic())
        else:
            await asyncio.sleep(kind.every_s)


async def settled(load: Load) -> dict[str, int]:
    """The state of every accepted task once all are final, or after `DRAIN_S`."""
    until = time.monotonic() + DRAIN_S
    states: dict[str, int] = {}
    for task_id in load.accepted:
        state = ""
        while not state:
            try:
                _, _, task = await load.api.ask("state", "GET", f"{TASKS}/{task_id}")
            except FailedError:
                state = "not known"
                continue
            if task["status"] in FINAL or time.monotonic() > until:
                state = task["status"]
            else:
                await asyncio.sleep(PAUSE_S)
        states[state] = states.get(state, 0) + 1
    return states


def main() -> None:
    """Do what standard input says."""
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=Order)
    print(msgspec.json.encode(uvloop.run(run(order))).decode(), flush=True)


if __name__ == "__main__":
    main()
