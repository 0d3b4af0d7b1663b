"""`AudioConverter` over child processes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from functions._kit.errors import Unprocessable
from functions._kit.ports import AudioTarget, ConversionFigures, Sound
from functions._kit.sound import ConversionQueue, check_target, size_of
from gateway.adapters.confined.messages import Convert
from gateway.adapters.confined.pool import Children, remove
from gateway.adapters.confined.process import Kind

SOUND = Kind(
    name="converter",
    module="gateway.adapters.confined.sound_child",
    open_s=10.0,  # headers are read in milliseconds, unless they are made to be slow
    silence_s=30.0,
)


class ProcessConverter:
    """Converts in child processes; a file that kills one is refused, and nobody else suffers."""

    def __init__(self, at_once: int, max_waiting: int, kind: Kind = SOUND) -> None:
        self._queue = ConversionQueue(at_once, max_waiting)
        self._children = Children(
            kind,
            crashed=lambda: _undecodable("ends the program that decodes it"),
            costly=lambda what: _undecodable(COSTLY[what]),
        )

    async def convert(
        self, source: Path, into: Path, target: AudioTarget, *, longest_s: float
    ) -> Sound:
        """See `AudioConverter.convert`; `Unavailable` where no child can be started."""
        check_target(target)
        work = Convert(source=str(source), into=str(into), target=target, longest_s=longest_s)
        async with self._queue.turn(size_of(source)):
            try:
                return await self._children.do(
                    work, lambda _, done: msgspec.convert(done.result, Sound)
                )
            except BaseException:
                remove(into)  # what a child that died has left
                raise

    def figures(self) -> ConversionFigures:
        """See `AudioConverter.figures`."""
        return self._queue.figures()

    @property
    def pids(self) -> frozenset[int]:
        """Process ids of the children that live now."""
        return self._children.pids

    async def close(self) -> None:
        """End all children; what is converted now fails."""
        await self._children.close()


COSTLY = {
    "time": "takes too long to decode",
    "memory": "takes more memory than a conversion may have",
}


@asynccontextmanager
async def open_converter(
    workers: int, max_concurrent: int, max_waiting: int, *, kind: Kind = SOUND
) -> AsyncIterator[ProcessConverter]:
    """A converter of min(`workers`, `max_concurrent`) children; none is left at its end."""
    converter = ProcessConverter(min(workers, max_concurrent), max_waiting, kind)
    try:
        yield converter
    finally:
        await converter.close()


def _undecodable(why: str) -> Unprocessable:
    return Unprocessable(
        "undecodable_audio", f"The file {why}. Send it in its ordinary form.", field="file"
    )
