"""The child process: reads work from its standard input, converts, answers on its output.

Run as `python -m gateway.adapters.converter.child PARENT_PID`. It decodes what strangers send, so
it has little memory, opens few files, and dies with its parent.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import BinaryIO

from functions._kit.errors import RequestError
from functions._kit.sound import convert
from gateway.adapters.converter.messages import (
    Answer,
    Done,
    Failed,
    Progress,
    Ready,
    Stopped,
    Work,
    decode_work,
    encode,
    refusal,
)

MEMORY_BYTES = 384 << 20
"""What a conversion may take beyond what this process has when it starts; most take 20 MB."""
FILE_BYTES = 16 << 30
OPEN_FILES = 64
NICE = 5
"""Whoever answers HTTP comes first where cores are short."""
PROGRESS_S = 60.0
"""Seconds of sound between two signs of life; the first comes when the file is opened."""
PR_SET_PDEATHSIG = 1  # linux/prctl.h
STOP = signal.SIGUSR1
"""Gives up the conversion that runs; without one it means nothing."""


class _Stop(BaseException):
    """Raised by the signal, wherever the conversion is; again where a callback has swallowed it."""


class Child:
    """Does one work at a time."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._working = False
        self._stopping = False
        self._told_s = 0.0

    def run(self, lines: BinaryIO) -> None:
        """Work until the input ends."""
        self._say(Ready())
        for line in lines:
            self._say(self._answer(decode_work(line)))

    def stop(self, number: int, frame: FrameType | None) -> None:
        """The signal's handler."""
        del number, frame
        if self._working:
            self._working, self._stopping = False, True
            raise _Stop

    def _answer(self, work: Work) -> Answer:
        self._told_s = 0.0
        self._stopping = False
        try:
            self._working = True
            sound = convert(
                Path(work.source),
                Path(work.into),
                work.target,
                longest_s=work.longest_s,
                on_progress=self._progress,
            )
            self._working = False
        except _Stop:
            return Stopped()
        except RequestError as error:
            self._working = False
            return refusal(error)
        except OSError as error:
            self._working = False
            return Failed(error.strerror or str(error), error.errno)
        return Done(sound)

    def _progress(self, written_s: float) -> None:
        if self._stopping:
            raise _Stop
        if not written_s or written_s - self._told_s >= PROGRESS_S:
            self._told_s = written_s
            self._say(Progress())

    def _say(self, answer: Answer) -> None:
        self._out.write(encode(answer))
        self._out.flush()


def confine(parent: int) -> None:
    """Bound what this process may take, and tie its life to its parent's."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    if os.getppid() != parent:  # it died before we could ask to be told
        raise SystemExit(1)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    memory = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES, FILE_BYTES))
    resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, OPEN_FILES))
    _give_way()


def _give_way() -> None:
    """In a session of its own: else its work would count against its parent's (sched(7))."""
    with contextlib.suppress(OSError):
        os.setsid()
        os.nice(NICE)
        Path("/proc/self/autogroup").write_text(str(NICE))


def main() -> None:
    """Answer on what was the standard output; nothing else can write there by mistake."""
    confine(int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    child = Child(out)
    signal.signal(STOP, child.stop)
    child.run(sys.stdin.buffer)


if __name__ == "__main__":
    main()
