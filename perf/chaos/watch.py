"""Looks at tasks all the while: states by GET, and the events of some as they come."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from chaos.client import Api
from chaos.ledger import Ledger, TaskEntry
from chaos.verdict import FINAL

TASK = "/api/v1/media/processingTasks/{}"
PACE_S = 0.12
"""Between two status queries."""
AGAIN = 0.1
"""Share of queries that ask for a task that is over."""
SILENCE_S = 40.0


@dataclass
class Watch:
    """One watcher; `over` are tasks whose final state it has seen."""

    api: Api
    ledger: Ledger
    seed: int
    over: set[str] = field(default_factory=set)
    _followers: dict[str, asyncio.Task[None]] = field(default_factory=dict)

    @property
    def open(self) -> list[TaskEntry]:
        """Tasks that are not known to be over."""
        return [task for task in self.ledger.tasks.values() if task.task_id not in self.over]

    async def run(self) -> None:
        """Query and follow until cancelled."""
        draw = random.Random(self.seed)  # noqa: S311 - whom to ask is no secret
        try:
            while True:
                await asyncio.sleep(PACE_S)
                self._follow_new()
                waiting = self.open
                again = list(self.over)
                if again and (not waiting or draw.random() < AGAIN):
                    await self._query(self.ledger.tasks[draw.choice(again)])
                elif waiting:
                    await self._query(draw.choice(waiting))
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

    async def _follow(self, task: TaskEntry) -> None:
        """Its events to the final one, over as many connections as it takes."""
        last, streamed = "", task.streamed if task.streamed is not None else []
        while not any(status in FINAL for status in streamed):
            try:
                async for event_id, status in self._events(task.task_id, last):
                    last = event_id
                    if streamed[-1:] != [status] or status in FINAL:
                        streamed.append(status)
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
                pass
            await asyncio.sleep(0.5)

    async def _events(self, task_id: str, last: str) -> AsyncIterator[tuple[str, str]]:
        """Ids and names of the events after `last`."""
        url = random.choice(self.api.gateways) + TASK.format(task_id) + "/events"  # noqa: S311
        timeout = aiohttp.ClientTimeout(total=None, connect=5.0, sock_read=SILENCE_S)
        headers = {"Last-Event-ID": last} if last else {}
        async with self.api.session.get(url, headers=headers, timeout=timeout) as answer:
            if answer.status != 200:
                return
            fields: dict[str, Any] = {}
            async for raw in answer.content:
                name, _, value = raw.decode().rstrip("\r\n").partition(": ")
                if name:
                    fields[name] = value
                elif "data" in fields and "id" in fields:
                    yield fields["id"], fields["event"]
                    fields = {}
