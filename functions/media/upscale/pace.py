"""How far a picture is, also while its tiles run: a large one takes minutes on a CPU."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from functions.media.upscale.tiles import TilePlan

TICK_S = 0.5
NEARLY = 0.95
"""A tile that takes longer than expected stops here until it is done."""

_seconds_per_pixel: dict[str, float] = {}
"""What a pixel of the last picture took, by model; lets even the first tile show progress."""


class Pace:
    """Progress of one picture: the tiles that are done, and the expected part of those running."""

    def __init__(
        self, model: str, tiles: TilePlan, streams: int, on_progress: Callable[[float], None]
    ) -> None:
        self._model = model
        self._count = len(tiles)
        self._pixels = len(tiles) * tiles.tile_height * tiles.tile_width
        self._streams = streams
        self._on_progress = on_progress
        self._done = 0
        self._began = time.monotonic()

    def tile_done(self) -> None:
        """Count one tile more."""
        self._done += 1
        elapsed_s = time.monotonic() - self._began
        _seconds_per_pixel[self._model] = elapsed_s / (self._pixels * self._done / self._count)
        self._on_progress(self._done / self._count)

    @asynccontextmanager
    async def told(self) -> AsyncIterator[None]:
        """Tell the expected progress every half second while the block runs."""
        ticking = asyncio.create_task(self._tick())
        try:
            yield
        finally:
            ticking.cancel()
            await asyncio.gather(ticking, return_exceptions=True)

    def expected(self) -> float:
        """Share of the picture that should be done by now, between what is done and runs."""
        pace = _seconds_per_pixel.get(self._model)
        if not pace:
            return self._done / self._count
        elapsed_s = time.monotonic() - self._began
        running = min(self._streams, self._count - self._done)
        most = (self._done + NEARLY * running) / self._count
        return max(self._done / self._count, min(most, elapsed_s / (pace * self._pixels)))

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._on_progress(self.expected())
