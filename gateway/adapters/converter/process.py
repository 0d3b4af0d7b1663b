"""A child process from its start to its end, as the pool sees it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys

import msgspec

from functions._kit.errors import Unavailable
from gateway.adapters.converter.messages import (
    Answer,
    Progress,
    Ready,
    Work,
    decode_answer,
    encode,
)

MODULE = "gateway.adapters.converter.child"
OPEN_S = 10.0
"""Headers are read in milliseconds, unless they are made to be slow."""
SILENCE_S = 30.0
"""The longest that a child says nothing while it works."""
START_S = 30.0
STOP_S = 1.0
"""How long a child has to give up its work before it is killed."""

# Secrets of the parent's environment are none of a converter's business.
INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "PYTHONPATH", "LD_LIBRARY_PATH")


class Died(Exception):
    """The child ended in the middle of its work."""


class Stuck(Exception):
    """The child said nothing for `OPEN_S` or `SILENCE_S`, and was killed."""


class ConverterProcess:
    """A running child. `usable` says whether it takes another work."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
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
            self._writer.write(encode(work))
            answer = await self._answer(OPEN_S)
            while isinstance(answer, Progress):
                answer = await self._answer(SILENCE_S)
        except TimeoutError:
            await self.kill()
            raise Stuck from None
        except Died:
            await self.kill()
            raise
        except asyncio.CancelledError:
            await self._give_up()
            raise
        return answer

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
        raise Unavailable("converter", f"a process for conversions did not start: {reason}")

    async def kill(self) -> None:
        """End it, and wait until it has ended."""
        self.usable = False
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()

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


async def start() -> ConverterProcess:
    """A new child that takes work. Raises `Unavailable` when it does not start."""
    environment = {name: os.environ[name] for name in INHERITED if name in os.environ}
    process = ConverterProcess(
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", MODULE, str(os.getpid())),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            # numpy's threads would take address space for each core, and no work is theirs
            env=environment | {"OPENBLAS_NUM_THREADS": "1", "PYTHONSAFEPATH": "1"},
        )
    )
    try:
        await process.started()
    except BaseException:
        await process.kill()
        raise
    return process
