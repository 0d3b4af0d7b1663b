"""Processes beside a system: those that send the load, and the one that measures."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import msgspec

MEASURER, SENDER = -10, 0
"""Niceness. A measurer that waits for a core would count its own wait as the system's."""
Report = TypeVar("Report")


@asynccontextmanager
async def beside(
    script: Path, order: msgspec.Struct, report: type[Report], *, nice: int
) -> AsyncIterator[asyncio.Task[Report]]:
    """Run a script with `order` on its input; the task is what it prints in the end.

    The process ends with the block. The task raises `RuntimeError` where it failed.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(script),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONSAFEPATH": "1"},
        start_new_session=True,
    )
    hurry(process.pid, nice)

    async def reported() -> Report:
        said, _ = await process.communicate(msgspec.json.encode(order))
        if process.returncode != 0:
            raise RuntimeError(f"{script.name} ended with {process.returncode}")
        return msgspec.json.decode(said, type=report)

    reporting = asyncio.create_task(reported())
    try:
        yield reporting
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
        await asyncio.gather(reporting, return_exceptions=True)


def hurry(pid: int, nice: int) -> None:
    """Set a process's niceness, where we may; its session may have one of its own, too."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, nice)
        Path(f"/proc/{pid}/autogroup").write_text(str(nice))


def niceness(pid: int) -> int:
    """What came of it."""
    return os.getpriority(os.PRIO_PROCESS, pid)
