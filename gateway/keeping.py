"""Tasks that keep a system alive: one that ends with an error ends the system, loudly."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


class Keepers:
    """Runs them."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []
        self._failed = asyncio.Event()
        self._error: BaseException | None = None

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` beside the caller, until `end`."""
        task = asyncio.create_task(work)
        self.watch(task)
        self._tasks.append(task)

    def watch(self, task: asyncio.Task[None]) -> None:
        """`failed` tells of an error of `task`, too, which somebody else ends."""
        task.add_done_callback(self._ended)

    async def failed(self) -> None:
        """Wait for the first that ends with an error, and raise that."""
        await self._failed.wait()
        if self._error is not None:
            raise self._error

    async def end(self) -> None:
        """Cancel all, and wait until they have ended."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None and self._error is None:
            self._error = error
            self._failed.set()
