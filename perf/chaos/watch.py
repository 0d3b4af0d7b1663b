"""Looks at tasks all the while: states by GET, and the events of some as they come."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field

import aiohttp
from chaos.client import Api
from chaos.ledger import Ledger, TaskEntry
from chaos.verdict import FINAL

TASK = "/api/v1/media/processingTasks/{}"
PACE_S = 0.12
"""Between two status queries."""
OVER = 0.1
"""Share of queries that ask for a task that is over."""
SILENCE_S = 40.0
"""Longer than between two heartbeats of a stream."""
AGAIN_S = 0.5
BROKEN = (aiohttp.ClientError, TimeoutError, OSError, ValueError)
"""What a broken connection raises, and a line that was cut in two."""


@dataclass
class Watch:
    """One watcher; `over` are tasks whose final state it has seen."""

    api: Api
    ledger: Ledger
    seed: int
    over: set[str] = field(default_factory=set)
    _draw: random.Random = field(init=False)
    _followers: dict[str, asyncio.Task[None]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._draw = random.Random(self.seed)  # noqa: S311 - whom to ask is no secret

    @property
    def open(self) -> list[TaskEntry]:
        """Tasks that are not known to be over."""
        return [task for task in self.ledger.tasks.values() if task.task_id not in self.over]

    async def run(self) -> None:
        """Query and follow until cancelled."""
        try:
            while True:
                await asyncio.sleep(PACE_S)
                self._follow_new()
                waiting = self.open
                again = list(self.over)
                if again and (not waiting or self._draw.random() < OVER):
                    await self._query(self.ledger.tasks[self._draw.choice(again)])
                elif waiting:
                    await self._query(self._draw.choice(waiting))
        finally:
            for follower in self._followers.values():
                follower.cancel()
            await asyncio.gather(*self._followers.values(), return_exceptions=True)

    async def followed(self) -> bool:
        """Whether every follower has heard its task's end."""
        return all(follower.done() for follower in self._followers.values())

    async def _query(self, task: TaskEntry) -> None:
        answer = await self.api.once("GET", TASK.format(task.task_id))
        if answer is None or answer.status == 404:  # its row comes later
            return
        if answer.status != 200:
            self.api.pause_s("GET a task", answer)
            return
        status = str(json.loads(answer.body)["status"])
        if task.polled[-1:] != [status]:
            task.polled.append(status)
        if status in FINAL:
            self.over.add(task.task_id)

    def _follow_new(self) -> None:
        for task in self.ledger.tasks.values():
            if task.streamed is not None and task.task_id not in self._followers:
                self._followers[task.task_id] = asyncio.create_task(self._follow(task))

    async def follow_alerts(self, last: str) -> None:
        """All alerts after the event `last`, over as many connections as it takes, without end."""
        streamed = self.ledger.streamed_alerts
        while True:
            with suppress(*BROKEN):
                async for event in self._events("/api/v1/alerts/stream", last):
                    last = event["id"]
                    if event["event"] == "alert":
                        alert_id = json.loads(event["data"])["alert_id"]
                        streamed[alert_id] = streamed.get(alert_id, 0) + 1
            await asyncio.sleep(AGAIN_S)

    async def _follow(self, task: TaskEntry) -> None:
        """Its events to the final one, over as many connections as it takes."""
        last, streamed = "", task.streamed if task.streamed is not None else []
        while not any(status in FINAL for status in streamed):
            with suppress(*BROKEN):
                async for event in self._events(TASK.format(task.task_id) + "/events", last):
                    last, status = event["id"], event["event"]
                    if streamed[-1:] != [status] or status in FINAL:
                        streamed.append(status)
            await asyncio.sleep(AGAIN_S)

    async def _events(self, path: str, last: str) -> AsyncIterator[dict[str, str]]:
        """Events after `last`, from one connection to either gateway."""
        url = self._draw.choice(self.api.gateways) + path
        timeout = aiohttp.ClientTimeout(total=None, connect=5.0, sock_read=SILENCE_S)
        headers = {"Last-Event-ID": last} if last else {}
        async with self.api.session.get(url, headers=headers, timeout=timeout) as answer:
            if answer.status != 200:
                return
            fields: dict[str, str] = {}
            async for raw in answer.content:
                name, _, value = raw.decode().rstrip("\r\n").partition(": ")
                if name:
                    fields[name] = value
                elif "data" in fields and "id" in fields:
                    yield fields
                    fields = {}
