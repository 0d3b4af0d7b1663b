"""So many conversions at once, others in their order, none beyond a limit; and their figures."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from functions._kit.errors import TooManyRequests
from functions._kit.ports.audio import AudioTooLong, ConversionFigures

FIRST_GUESS_S = 1.0
"""What a conversion takes, before one is measured."""
LONGEST_RETRY_S = 60


class ConversionQueue:
    """Lets `at_once` in, first come first served; `max_waiting` wait."""

    def __init__(self, at_once: int, max_waiting: int) -> None:
        self._at_once, self._max_waiting = at_once, max_waiting
        self._places = asyncio.Semaphore(at_once)
        self._active = self._waiting = self._completed = self._failed = 0
        self._total_time_s = 0.0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """A place within the block. Raises `TooManyRequests` (`too_many_conversions`).

        What the block raises makes it a failed conversion, a cancellation too; but for
        `AudioTooLong`, which only says that this caller takes shorter sounds.
        """
        await self._enter()
        self._active += 1
        began = time.perf_counter()
        try:
            yield
        except AudioTooLong:
            raise
        except BaseException:
            self._failed += 1
            raise
        else:
            self._completed += 1
            self._total_time_s += time.perf_counter() - began
        finally:
            self._active -= 1
            self._places.release()

    async def _enter(self) -> None:
        if self._places.locked() and self._waiting >= self._max_waiting:
            raise TooManyRequests(
                "too_many_conversions",
                f"{self._active} conversions run and {self._waiting} wait, as many as may; "
                "send the file again later",
                retry_after_s=self._retry_after_s(),
            )
        self._waiting += 1
        try:
            await self._places.acquire()
        finally:
            self._waiting -= 1

    def _retry_after_s(self) -> int:
        """When those who wait now should have gone in."""
        mean_s = self._total_time_s / self._completed if self._completed else FIRST_GUESS_S
        return min(LONGEST_RETRY_S, max(1, math.ceil(mean_s * self._waiting / self._at_once)))

    def figures(self) -> ConversionFigures:
        """What runs, waits and has ended."""
        return ConversionFigures(
            active=self._active,
            max_concurrent=self._at_once,
            waiting=self._waiting,
            completed=self._completed,
            failed=self._failed,
            total_time_s=self._total_time_s,
        )
