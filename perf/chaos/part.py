"""A part of the system: a process that is started again when it dies, and ended in order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from dataclasses import dataclass, field

import psutil

from gateway.embedded import Process, StartError

RESTART_S = 0.5
LONGEST_PAUSE_S = 4.0


@dataclass
class Part:
    """A process with its supervisor."""

    name: str
    process: Process
    grace_s: float = 10.0
    deaths: list[float] = field(default_factory=list)
    back: list[float] = field(default_factory=list)
    """When it answered again."""
    running: bool = True

    @property
    def tree(self) -> list[psutil.Process]:
        """The process and all below it."""
        try:
            main = psutil.Process(self.process.pid)
            return [main, *main.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    async def keep(self) -> None:
        """Start it again whenever it ends, until cancelled."""
        while True:
            await self.process.exited()
            self.running = False
            self.deaths.append(time.time())
            pause_s = RESTART_S
            while not self.running:
                await asyncio.sleep(pause_s)
                with contextlib.suppress(StartError):
                    await self.process.restart()
                    self.running = True
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            self.back.append(time.time())

    async def end(self) -> bool:
        """Ask it to end; False where it had to be killed."""
        if not self.running:
            return True
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, self.process.command.stop_signal)
        try:
            async with asyncio.timeout(self.grace_s):
                await self.process.exited()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process.pid, signal.SIGKILL)
            await self.process.exited()
            return False
        return True


def alive(pid: int, created: float) -> bool:
    """Whether that process, and no later one of its number, still runs."""
    try:
        process = psutil.Process(pid)
        return bool(process.create_time() == created and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
