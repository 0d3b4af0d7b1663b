"""Ends processes as a power cut would: without a word, and all at once."""

from __future__ import annotations

import contextlib

import psutil

from gateway.embedded import Process


async def kill(process: Process) -> None:
    """Kill -9 of a process and its children; return when it is gone."""
    kill_all(process.pid)
    await process.exited()


def kill_all(pid: int) -> None:
    """Kill -9 of a process and all below it, itself first, so that nobody tidies up."""
    main = psutil.Process(pid)
    family = [main, *main.children(recursive=True)]
    for one in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    psutil.wait_procs(family[1:], timeout=60)
