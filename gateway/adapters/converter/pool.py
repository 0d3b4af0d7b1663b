"""`AudioConverter` over a few child processes, started when they are first needed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from functions._kit.errors import Unavailable, Unprocessable
from functions._kit.ports import AudioTarget, ConversionFigures, Sound
from functions._kit.sound import ConversionQueue, check_target, size_of
from gateway.adapters.converter.messages import Done, Failed, Refused, Work, raised
from gateway.adapters.converter.process import ConverterProcess, Died, Stuck, start


class ProcessConverter:
    """Converts in child processes; a file that kills one is refused, and nobody else suffers."""

    def __init__(self, at_once: int, max_waiting: int) -> None:
        self._queue = ConversionQueue(at_once, max_waiting)
        self._idle: list[ConverterProcess] = []
        self._all: set[ConverterProcess] = set()
        self._closed = False

    async def convert(
        self, source: Path, into: Path, target: AudioTarget, *, longest_s: float
    ) -> Sound:
        """See `AudioConverter.convert`; `Unavailable` where no child can be started."""
        check_target(target)
        work = Work(source=str(source), into=str(into), target=target, longest_s=longest_s)
        async with self._queue.turn(size_of(source)):
            try:
                return await self._convert(work)
            except BaseException:
                _remove(into)  # what a child that died has left
                raise

    def figures(self) -> ConversionFigures:
        """See `AudioConverter.figures`."""
        return self._queue.figures()

    @property
    def pids(self) -> frozenset[int]:
        """Process ids of the children that live now."""
        return frozenset(child.pid for child in self._all if not child.ended)

    async def close(self) -> None:
        """End all children; what is converted now fails."""
        self._closed = True
        await asyncio.gather(*(child.kill() for child in self._all))

    async def _convert(self, work: Work) -> Sound:
        # a child may die of something else than its file: a new one is believed
        for fresh in (False, True):
            async with self._child(fresh=fresh) as child:
                try:
                    answer = await child.work(work)
                except Died:
                    continue
                except Stuck:
                    raise _undecodable("takes too long to decode") from None
            if isinstance(answer, Done):
                return answer.sound
            if isinstance(answer, Refused):
                raise raised(answer)
            if isinstance(answer, Failed) and answer.errno is not None:
                raise OSError(answer.errno, answer.message)
            raise RuntimeError(f"a converter answered {answer}")
        raise _undecodable("ends the program that decodes it")

    @asynccontextmanager
    async def _child(self, *, fresh: bool) -> AsyncIterator[ConverterProcess]:
        """A child for one work: one that is warm, unless it shall be `fresh`, or a new one."""
        if self._closed:
            raise _closing()
        child = self._idle.pop() if self._idle and not fresh else await self._start()
        try:
            yield child
        finally:
            if child.usable:
                self._idle.append(child)

    async def _start(self) -> ConverterProcess:
        self._idle = [child for child in self._idle if not child.ended]
        self._all = {child for child in self._all if not child.ended}
        child = await start()
        self._all.add(child)
        if self._closed:
            await child.kill()
            raise _closing()
        return child


@asynccontextmanager
async def open_converter(
    workers: int, max_concurrent: int, max_waiting: int
) -> AsyncIterator[ProcessConverter]:
    """A converter of min(`workers`, `max_concurrent`) children; none is left at its end."""
    converter = ProcessConverter(min(workers, max_concurrent), max_waiting)
    try:
        yield converter
    finally:
        await converter.close()


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


def _closing() -> Unavailable:
    return Unavailable("converter", "conversions end: this process stops")


def _undecodable(why: str) -> Unprocessable:
    return Unprocessable(
        "undecodable_audio", f"The file {why}. Send it in its ordinary form.", field="file"
    )
