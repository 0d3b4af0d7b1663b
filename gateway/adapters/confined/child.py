"""A child process: reads work from its standard input, does it, answers on its output.

Run as `python -m gateway.adapters.confined.sound_child PARENT_PID ARENA`, or `picture_child`. It
reads what strangers send, so it has little memory, opens few files, and dies with its parent.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import BinaryIO

from functions._kit.errors import JobFailed, RequestError
from gateway.adapters.confined.confine import confine
from gateway.adapters.confined.messages import (
    Answer,
    AnyWork,
    Costly,
    Done,
    Failed,
    Progress,
    Ready,
    Stopped,
    decode_work,
    encode,
    refusal,
)

PROGRESS_S = 60.0
"""Seconds of sound between two signs of life; the first comes when the file is opened."""
STOP = signal.SIGUSR1
"""Gives up the work that runs; without one it means nothing."""

Do = Callable[[AnyWork, Callable[[float], None]], Done]
"""Does a work; the callback hears how many seconds are done."""


class _Stop(BaseException):
    """Raised by the signal, wherever the work is; again where a callback has swallowed it."""


class Child:
    """Does one work at a time."""

    def __init__(self, out: BinaryIO, do: Do) -> None:
        self._out = out
        self._do = do
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

    def _answer(self, work: AnyWork) -> Answer:
        self._told_s = 0.0
        self._stopping = False
        answer: Answer
        try:
            self._working = True
            answer = self._do(work, self._progress)
            self._working = False
        except _Stop:
            return Stopped()
        except (RequestError, JobFailed) as error:
            self._working = False
            return refusal(error)
        except MemoryError:
            self._working = False
            return Costly()
        except OSError as error:
            self._working = False
            if error.errno == errno.ENOMEM:  # of a file that is mapped
                return Costly()
            return Failed(error.strerror or str(error), error.errno)
        return answer

    def _progress(self, written_s: float) -> None:
        if self._stopping:
            raise _Stop
        if not written_s or written_s - self._told_s >= PROGRESS_S:
            self._told_s = written_s
            self._say(Progress())

    def _say(self, answer: Answer) -> None:
        self._out.write(encode(answer))
        self._out.flush()


def run(do: Do) -> None:
    """Confined, answer on what was the standard output; nothing else can write there by mistake."""
    confine(int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    child = Child(out, do)
    signal.signal(STOP, child.stop)
    child.run(sys.stdin.buffer)
