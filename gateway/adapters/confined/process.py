"""A child process from its start to its end, as the pool sees it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from dataclasses import dataclass

import msgspec

from functions._kit.errors import Unavailable
from gateway.adapters.confined.messages import (
    Answer,
    Progress,
    Ready,
    Work,
    decode_answer,
    encode,
)

START_S = 30.0
STOP_S = 1.0
"""How long a child has to give up its work before it is killed."""
END_S = 5.0
"""How long a child that has fallen silent for good may take to be gone."""
ARENA_KEPT_BYTES = 4 << 20
"""More than this is given back to the system after each work."""

# Secrets of the parent's environment are none of a child's business.
INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "PYTHONPATH", "LD_LIBRARY_PATH")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What children of a pool run, and how long they may say nothing."""

    name: str
    """As errors call it."""
    module: str
    open_s: float
    """Until the first word on a work."""
    silence_s: float
    """Between two later words."""


class Died(Exception):
    """The child ended in the middle of its work, by the signal `by` (0 for none)."""

    def __init__(self, by: int = 0) -> None:
        super().__init__()
        self.by = by


class Stuck(Exception):
    """The child said nothing for as long as its kind may, and was killed."""


class ChildProcess:
    """A running child. `usable` says whether it takes another work."""

    def __init__(self, process: asyncio.subprocess.Process, kind: Kind, arena: int) -> None:
        self._process = process
        self._kind = kind
        self._arena = arena
        self.usable = True

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    @property
    def ended(self) -> bool:
        """Whether it is gone."""
        return self._process.returncode is not None

    async def work(self, work: Work) -> Answer:
        """Its last answer. Raises `Died` and `Stuck`; when cancelled, the work is given up."""
        try:
            self._ask(work)
            answer = await self._answer(self._kind.open_s)
            while isinstance(answer, Progress):
                answer = await self._answer(self._kind.silence_s)
        except TimeoutError:
            await self.kill()
            raise Stuck from None
        except Died:
            raise Died(await self._end()) from None
        except asyncio.CancelledError:
            await self._give_up()
            raise
        return answer

    def lend(self, data: bytes) -> None:
        """Lay `data` at the beginning of the arena."""
        left, at = memoryview(data), 0
        while left:
            written = os.pwrite(self._arena, left, at)
            left, at = left[written:], at + written

    def take(self, size: int) -> bytearray:
        """The first `size` bytes of the arena, read and not mapped: a child may have cut it."""
        taken = bytearray(size)
        left, at = memoryview(taken), 0
        while left:
            read = os.preadv(self._arena, [left], at)
            if not read:
                raise Died
            left, at = left[read:], at + read
        if size > ARENA_KEPT_BYTES:
            os.ftruncate(self._arena, 0)
        return taken

    async def started(self) -> None:
        """Wait until it is ready. Raises `Unavailable` when it does not start."""
        try:
            answer = await self._answer(START_S)
            if isinstance(answer, Ready):
                return
            reason = f"it said {answer}"
        except TimeoutError:
            reason = f"it was not ready after {START_S:.0f} s"
        except Died:
            reason = "it ended at once"
        name = self._kind.name
        raise Unavailable(name, f"a process of the {name} did not start: {reason}")

    async def kill(self) -> None:
        """End it, and wait until it has ended."""
        self.usable = False
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        self._close_arena()

    async def _end(self) -> int:
        """The signal that ended it; 0 for none, and for one that had to be killed by us."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_S):
                await self._process.wait()
        by = max(0, -(self._process.returncode or 0))
        await self.kill()
        return by

    def _close_arena(self) -> None:
        if self._arena >= 0:
            os.close(self._arena)
            self._arena = -1

    async def _give_up(self) -> None:
        """Have the child stop its work and take no other before it has said so."""
        self.usable = False
        try:
            self._process.send_signal(signal.SIGUSR1)
            async with asyncio.timeout(STOP_S):
                while isinstance(await self._answer(STOP_S), Progress):
                    pass
            self.usable = True
        except (ProcessLookupError, TimeoutError, Died):
            await self.kill()
        except asyncio.CancelledError:  # a second one
            self._process.kill()
            raise

    def _ask(self, work: Work) -> None:
        try:
            self._writer.write(encode(work))
        except (OSError, RuntimeError) as error:  # uvloop's word for the pipe of one that is gone
            raise Died from error

    @property
    def _writer(self) -> asyncio.StreamWriter:
        if self._process.stdin is None:
            raise RuntimeError("the child has no input")
        return self._process.stdin

    async def _answer(self, timeout_s: float) -> Answer:
        if self._process.stdout is None:
            raise RuntimeError("the child has no output")
        async with asyncio.timeout(timeout_s):
            try:
                line = await self._process.stdout.readline()
                return decode_answer(line)
            except (ValueError, ConnectionError, msgspec.DecodeError) as error:
                raise Died from error


async def start(kind: Kind) -> ChildProcess:
    """A new child that takes work. Raises `Unavailable` when it does not start."""
    environment = {name: os.environ[name] for name in INHERITED if name in os.environ}
    arena = os.memfd_create("arena")
    try:
        process = ChildProcess(
            await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", kind.module, str(os.getpid()), str(arena)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                pass_fds=[arena],
                # numpy's threads would take address space for each core, and no work is theirs
                env=environment | {"OPENBLAS_NUM_THREADS": "1", "PYTHONSAFEPATH": "1"},
            ),
            kind,
            arena,
        )
    except BaseException:
        os.close(arena)
        raise
    try:
        await process.started()
    except BaseException:
        await process.kill()
        raise
    return process
