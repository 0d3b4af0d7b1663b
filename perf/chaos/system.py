"""The whole system: its parts, what stands between them, and who has ever been a part of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from chaos.cluster import Queue
from chaos.door import Door
from chaos.part import Part, alive
from chaos.plan import GATEWAYS, QUEUES, TRITONS, WORKERS
from chaos.proxy import Proxy
from nats.aio.client import Client

CENSUS_S = 1.0
LEFT_S = 15.0
STOP_ORDER = (GATEWAYS, WORKERS, TRITONS, ("postgres", "s3"), QUEUES)


@dataclass
class System:
    """All parts, and what stands between them."""

    folder: Path
    parts: dict[str, Part]
    proxies: dict[str, Proxy]
    doors: dict[str, Door]
    queue: Queue
    gateways: tuple[str, ...]
    """Their URLs."""
    worker_metrics: Mapping[str, str]
    key: str
    webhook_secret: bytes
    seen: dict[tuple[int, float], str] = field(default_factory=dict)
    killed: list[str] = field(default_factory=list)
    _keepers: list[asyncio.Task[None]] = field(default_factory=list)

    @property
    def admin(self) -> Client:
        """NATS, past the proxies."""
        return self.queue.client

    def supervise(self) -> None:
        """Start what dies again, and count who is there, until `stop`."""
        self._keepers = [asyncio.create_task(part.keep()) for part in self.parts.values()]
        self._keepers.append(asyncio.create_task(self._census()))

    async def unsupervise(self) -> None:
        """Start nothing again from now on."""
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        self._keepers = []

    async def all_running(self, within_s: float) -> bool:
        """Whether every part runs before long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while not all(part.running for part in self.parts.values()):
                    await asyncio.sleep(0.1)
                return True
        return False

    async def stop(self) -> list[str]:
        """End everything in order; what had to be killed is noted. Returns what is left."""
        self._note()
        await self.unsupervise()
        for group in STOP_ORDER:
            if group is QUEUES:
                await self.queue.client.close()
            ended = await asyncio.gather(*(self.parts[name].end() for name in group))
            self.killed += [
                f"{name} at the end" for name, well in zip(group, ended, strict=True) if not well
            ]
        return await asyncio.to_thread(self._left)

    def _left(self) -> list[str]:
        deadline = time.monotonic() + LEFT_S
        left = dict(self.seen)
        while left and time.monotonic() < deadline:
            left = {who: name for who, name in left.items() if alive(*who)}
            time.sleep(0.1)
        for pid, _ in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return [f"{name} ({pid})" for (pid, _), name in left.items()]

    async def _census(self) -> None:
        while True:
            self._note()
            await asyncio.sleep(CENSUS_S)

    def _note(self) -> None:
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                who = (process.pid, process.create_time())
                if who not in self.seen:
                    self.seen[who] = " ".join(process.cmdline())[:120]
