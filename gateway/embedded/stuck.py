"""NATS gives a stream up, until its next start, whose file it could not write to once.

It says so in its log alone: publishers hear nothing, and its own health is well (2.15).
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from gateway.embedded.process import Process

LOOK_S = 1.0
ROOM_BYTES = 1 << 20
GIVEN_UP = (b"critical write error", b"no space left on device", b"out of resources")


async def restart_when_stuck(process: Process, store: Path) -> None:
    """End NATS, for its supervisor to start it, once it has given up and has room again."""
    log = process.command.log
    seen, stuck = _size(log), False
    while True:
        await asyncio.sleep(LOOK_S)
        size = _size(log)
        if size < seen:  # a new log
            seen = 0
        if size > seen:
            stuck |= await asyncio.to_thread(_says_so, log, seen)
            seen = size
        disk = os.statvfs(store)
        if stuck and disk.f_bavail * disk.f_frsize >= ROOM_BYTES:
            await process.stop()
            stuck = False


def _size(log: Path) -> int:
    return log.stat().st_size if log.exists() else 0


def _says_so(log: Path, start: int) -> bool:
    with log.open("rb") as file:
        file.seek(start)
        text = file.read()
    return any(word in text for word in GIVEN_UP)
