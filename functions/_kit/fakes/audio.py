"""A converter in this process: the same conversion, in a thread, with no wall around it."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

from functions._kit.ports import AudioTarget, ConversionFigures, Sound
from functions._kit.sound import ConversionQueue, check_target, convert, size_of


class FakeAudioConverter:
    """Answers as `ProcessConverter` does, with the same limits and figures."""

    def __init__(self, max_concurrent: int = 2, max_waiting: int = 100) -> None:
        self._queue = ConversionQueue(max_concurrent, max_waiting)

    async def convert(
        self, source: Path, into: Path, target: AudioTarget, *, longest_s: float
    ) -> Sound:
        """See `AudioConverter.convert`."""
        check_target(target)
        async with self._queue.turn(size_of(source)):
            stopped = threading.Event()

            def go_on(_: float) -> None:
                if stopped.is_set():
                    raise _Stopped

            working = asyncio.ensure_future(
                asyncio.to_thread(
                    convert, source, into, target, longest_s=longest_s, on_progress=go_on
                )
            )
            try:
                return await asyncio.shield(working)
            except asyncio.CancelledError:
                stopped.set()
                await asyncio.wait({working})
                if not working.cancelled() and working.exception() is None:
                    await asyncio.to_thread(into.unlink, missing_ok=True)  # it had ended already
                raise

    def figures(self) -> ConversionFigures:
        """See `AudioConverter.figures`."""
        return self._queue.figures()


class _Stopped(Exception):
    """Nobody wants the rest."""
