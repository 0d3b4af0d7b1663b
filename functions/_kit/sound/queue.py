"""So many conversions at once, the rest in a line where short work goes first."""

from __future__ import annotations

import asyncio
import heapq
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from functions._kit.errors import TooManyRequests
from functions._kit.ports.audio import AudioTooLong, ConversionFigures

FIRST_GUESS_S = 1.0
"""What a conversion takes, before one is measured."""
LONGEST_RETRY_S = 60
BYTES_A_SECOND = 1 << 20
"""So much later may others come that overtake a file: it waits longer, and never for ever."""
LARGE_BYTES = 16 << 20
"""An hour of OPUS, which takes some seconds. Such files leave the last of several places free."""


def size_of(source: Path) -> int:
    """Bytes of a file that waits; 0 where there is none, which the conversion will say."""
    try:
        return source.stat().st_size
    except FileNotFoundError:
        return 0


@dataclass(eq=False, slots=True)
class _Waiter:
    turn: float
    size_bytes: int
    admitted: asyncio.Future[None]

    def __lt__(self, other: _Waiter) -> bool:
        return self.turn < other.turn


class ConversionQueue:
    """Lets `at_once` in; `max_waiting` wait."""

    def __init__(self, at_once: int, max_waiting: int) -> None:
        self._at_once, self._max_waiting = at_once, max_waiting
        self._line: list[_Waiter] = []
        self._active = self._large = self._completed = self._failed = 0
        self._total_time_s = 0.0

    @asynccontextmanager
    async def turn(self, size_bytes: int) -> AsyncIterator[None]:
        """A place within the block. Raises `TooManyRequests` (`too_many_conversions`).

        What the block raises makes it a failed conversion, a cancellation too; but for
        `AudioTooLong`, which only says that this caller takes shorter sounds.
        """
        await self._enter(size_bytes)
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
            self._leave(size_bytes)

    async def _enter(self, size_bytes: int) -> None:
        turn = time.monotonic() + size_bytes / BYTES_A_SECOND
        waiter = _Waiter(turn, size_bytes, asyncio.get_running_loop().create_future())
        heapq.heappush(self._line, waiter)
        self._admit()
        if waiter.admitted.done():
            return
        if len(self._line) > self._max_waiting:
            self._give_up(waiter)
            raise TooManyRequests(
                "too_many_conversions",
                f"{self._active} conversions run and {len(self._line)} wait, as many as may; "
                "send the file again later",
                retry_after_s=self._retry_after_s(),
            )
        try:
            await waiter.admitted
        except asyncio.CancelledError:
            if not waiter.admitted.cancelled():  # it was let in at the same moment
                self._leave(size_bytes)
            elif waiter in self._line:
                self._give_up(waiter)
            raise

    def _admit(self) -> None:
        """Let in who may: the first of the line, large files only where another place stays."""
        held_back = []
        while self._line and self._active < self._at_once:
            waiter = heapq.heappop(self._line)
            if waiter.admitted.cancelled():
                continue
            if waiter.size_bytes > LARGE_BYTES and self._large >= max(1, self._at_once - 1):
                held_back.append(waiter)
                continue
            self._active += 1
            self._large += waiter.size_bytes > LARGE_BYTES
            waiter.admitted.set_result(None)
        for waiter in held_back:
            heapq.heappush(self._line, waiter)

    def _give_up(self, waiter: _Waiter) -> None:
        self._line.remove(waiter)
        heapq.heapify(self._line)

    def _leave(self, size_bytes: int) -> None:
        self._active -= 1
        self._large -= size_bytes > LARGE_BYTES
        self._admit()

    def _retry_after_s(self) -> int:
        """When those who wait now should have gone in."""
        mean_s = self._total_time_s / self._completed if self._completed else FIRST_GUESS_S
        return min(LONGEST_RETRY_S, max(1, math.ceil(mean_s * len(self._line) / self._at_once)))

    def figures(self) -> ConversionFigures:
        """What runs, waits and has ended."""
        return ConversionFigures(
            active=self._active,
            max_concurrent=self._at_once,
            waiting=len(self._line),
            completed=self._completed,
            failed=self._failed,
            total_time_s=self._total_time_s,
        )
