"""A few child processes of one kind, each with one work at a time, started when they are needed."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

from functions._kit.errors import NereidError, Unavailable
from gateway.adapters.confined.messages import Costly, Done, Failed, Refused, Work, raised
from gateway.adapters.confined.process import ChildProcess, Died, Kind, Stuck, start

T = TypeVar("T")


class Children:
    """A file that kills a child is refused, and nobody else suffers.

    `crashed` and `costly` make the errors of files that end two children, and that take more time
    or memory than they may. Children that the system kills are not blamed on their file: it does so
    when memory is short. How many work at once is the callers' to bound.
    """

    def __init__(
        self,
        kind: Kind,
        *,
        crashed: Callable[[], NereidError],
        costly: Callable[[str], NereidError],
    ) -> None:
        self._kind = kind
        self._crashed, self._costly = crashed, costly
        self._idle: list[ChildProcess] = []
        self._all: set[ChildProcess] = set()
        self._closed = False

    async def do(
        self, work: Work, read: Callable[[ChildProcess, Done], T], *, data: bytes = b""
    ) -> T:
        """What `read` makes of the answer, while the child still holds its arena.

        `data` lies in the arena when the work begins. Raises what the work raises.
        """
        # a child may die of something else than its file: a new one is believed
        killed = False
        for fresh in (False, True):
            async with self._child(fresh=fresh) as child:
                try:
                    child.lend(data)
                    answer = await child.work(work)
                    if isinstance(answer, Done):
                        return read(child, answer)
                except Died as death:
                    if death.by == signal.SIGXCPU:
                        raise self._costly("time") from None
                    killed = killed or death.by == signal.SIGKILL
                    continue
                except Stuck:
                    raise self._costly("time") from None
            if isinstance(answer, Refused):
                raise raised(answer)
            if isinstance(answer, Costly):
                raise self._costly("memory")
            if isinstance(answer, Failed) and answer.errno is not None:
                raise OSError(answer.errno, answer.message)
            raise RuntimeError(f"a process of the {self._kind.name} answered {answer}")
        if killed:
            name = self._kind.name
            raise Unavailable(name, f"a process of the {name} was killed: is memory short?")
        raise self._crashed()

    @property
    def pids(self) -> frozenset[int]:
        """Process ids of the children that live now."""
        return frozenset(child.pid for child in self._all if not child.ended)

    async def warm(self) -> None:
        """Start a child before it is needed."""
        async with self._child(fresh=False):
            pass

    async def close(self) -> None:
        """End all children; what they do now fails."""
        self._closed = True
        await asyncio.gather(*(child.kill() for child in self._all))

    @asynccontextmanager
    async def _child(self, *, fresh: bool) -> AsyncIterator[ChildProcess]:
        """A child for one work: one that is warm, unless it shall be `fresh`, or a new one."""
        if self._closed:
            raise self._closing()
        child = None if fresh else self._warm_one()
        if child is None:
            child = await self._start()
        try:
            yield child
        finally:
            if child.usable:
                self._idle.append(child)

    def _warm_one(self) -> ChildProcess | None:
        while self._idle:
            child = self._idle.pop()
            if not child.ended:
                return child
        return None

    async def _start(self) -> ChildProcess:
        for child in [child for child in self._all if child.ended]:
            await child.kill()  # it ended by itself: what it held is given back
            self._all.discard(child)
        child = await start(self._kind)
        self._all.add(child)
        if self._closed:
            await child.kill()
            raise self._closing()
        return child

    def _closing(self) -> Unavailable:
        return Unavailable(self._kind.name, "this process stops")


def remove(path: Path) -> None:
    """Remove what a child that died may have left."""
    path.unlink(missing_ok=True)
