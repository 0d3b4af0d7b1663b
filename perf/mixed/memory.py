"""Memory of all processes of a system, part by part, again and again."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from pathlib import Path

import psutil
from measure import part_of
from mixed.figures import Timed

EVERY_S = 10.0
TOGETHER = "all together"
UNNAMED = "supervisor and others"


class Memory:
    """Proportional set sizes in MB: what is shared counts once, so that a sum is true."""

    def __init__(self, root: int) -> None:
        self.samples: dict[str, list[Timed]] = {}
        self.files: dict[str, list[int]] = {}
        """Open files and sockets, beside each sample."""
        self._root = psutil.Process(root)
        self._began = time.monotonic()

    async def watch(self) -> None:
        """Look every `EVERY_S`, for ever."""
        while True:
            await asyncio.to_thread(self.look)
            await asyncio.sleep(EVERY_S)

    def cpu_seconds(self) -> dict[str, float]:
        """CPU time of each part so far: of the processes that live now, and those they reaped."""
        used = Counter[str]()
        for process in [self._root, *self._root.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                used[part_of(process) or UNNAMED] += times.user + times.system
        return {part: round(seconds, 1) for part, seconds in sorted(used.items())}

    def look(self) -> None:
        """One sample of each part."""
        at = time.monotonic() - self._began
        held, files = Counter[str](), Counter[str]()
        for process in [self._root, *self._root.children(recursive=True)]:
            # a process may end meanwhile
            with contextlib.suppress(psutil.Error, OSError, StopIteration):
                part = part_of(process) or UNNAMED
                held[part] += pss_kb(process.pid)
                files[part] += process.num_fds()
        held[TOGETHER], files[TOGETHER] = sum(held.values()), sum(files.values())
        for part, kilobytes in held.items():
            self.samples.setdefault(part, []).append((at, kilobytes / 1024))
            self.files.setdefault(part, []).append(files[part])


def pss_kb(pid: int) -> int:
    """The kernel's own sum, which costs a tenth of adding up all mappings."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
