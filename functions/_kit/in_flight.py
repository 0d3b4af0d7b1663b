"""Work of this process that several callers share, or that outlives the answer to its caller."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")

BESIDE_AT_ONCE = 4
"""Work beside answers that runs at once; the rest waits, so that it never crowds out answers."""
MOST_BESIDE = 64
"""Work beside answers that may run or wait; each holds its file in the scratch folder."""
LAST_WORK_S = 10.0
"""How long work beside answers may go on at the end of the process."""


class InFlight:
    """What runs now, by key. One object a process; `open_in_flight` makes and ends it."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        """Where shared work keeps its files: no caller's folder lives as long."""
        self._runs: dict[str, _Run] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._beside: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(BESIDE_AT_ONCE)

    @asynccontextmanager
    async def shared(
        self, key: str, make: Callable[[], AbstractAsyncContextManager[T]]
    ) -> AsyncIterator[T]:
        """What `make` opens, once for all who ask for `key` before the last of them has left.

        Leaving while it is still being opened cancels that if nobody else waits for it. What
        opening raises is raised to all who wait.
        """
        run = self._runs.get(key)
        if run is None:
            run = self._runs[key] = _Run()
            run.task = asyncio.create_task(run.keep_open(make()))
            self._tasks.add(run.task)
            run.task.add_done_callback(self._tasks.discard)
        run.users += 1
        try:
            yield await asyncio.shield(run.opened)
        finally:
            self._leave(key, run)

    def beside(self, key: str, work: Coroutine[Any, Any, None]) -> bool:
        """Run `work` beside the answer, and keep what is shared as `key` open for it.

        Called within `shared` of the same key. False where too much waits: nothing is done then.
        What `work` raises is logged.
        """
        if len(self._beside) >= MOST_BESIDE:
            work.close()
            return False
        run = self._runs[key]
        run.users += 1
        task = asyncio.create_task(self._in_turn(work))
        self._beside.add(task)

        def end(done: asyncio.Task[None]) -> None:
            self._beside.discard(done)
            self._leave(key, run)
            if not done.cancelled() and (error := done.exception()) is not None:
                log.warning("work beside an answer failed: %s", error, exc_info=error)

        task.add_done_callback(end)
        return True

    async def finish(self, patience_s: float = LAST_WORK_S) -> None:
        """Wait for work beside answers, then cancel what is left of all."""
        if self._beside:
            await asyncio.wait(self._beside, timeout=patience_s)
        for tasks in (self._beside, self._tasks):
            left = list(tasks)
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    async def _in_turn(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            async with self._slots:
                await work
        finally:
            work.close()

    def _leave(self, key: str, run: _Run) -> None:
        run.users -= 1
        if run.users == 0:
            if self._runs.get(key) is run:
                del self._runs[key]
            run.close()


class _Run:
    """Something open for its users."""

    def __init__(self) -> None:
        self.users = 0
        self.task: asyncio.Task[None] | None = None
        self.opened: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._unused = asyncio.Event()

    async def keep_open(self, context: AbstractAsyncContextManager[Any]) -> None:
        """Open, wait until nobody uses it, close."""
        try:
            async with context as value:
                self.opened.set_result(value)
                await self._unused.wait()
        except asyncio.CancelledError:
            self.opened.cancel()
            raise
        except Exception as error:
            if self.opened.done():
                log.exception("what callers shared could not be closed")
            else:
                self.opened.set_exception(error)
                self.opened.exception()  # the callers may have gone meanwhile

    def close(self) -> None:
        """Nobody uses it any more."""
        self._unused.set()
        if self.task is not None and not self.opened.done():
            self.task.cancel()


@asynccontextmanager
async def open_in_flight(scratch: Path) -> AsyncIterator[InFlight]:
    """Close it before whatever its work uses: at its end, work beside answers is waited for."""
    in_flight = InFlight(scratch)
    try:
        yield in_flight
    finally:
        await in_flight.finish()
