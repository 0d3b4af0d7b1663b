"""What this process, its children and its machine take, from Linux's /proc (proc(5))."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from functions._kit.ports import Usage

PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class _Process:
    parent: int
    cpu_s: float
    memory_bytes: int


class UsageMeter:
    """Reads; percentages are since the last reading. All is 0 where there is no /proc."""

    def __init__(self) -> None:
        self._own = os.getpid()
        self._tick_s = 1 / os.sysconf("SC_CLK_TCK")
        self._page_bytes = os.sysconf("SC_PAGE_SIZE")
        self._read_at = time.monotonic()
        self._cpu_s = {pid: process.cpu_s for pid, process in self._family().items()}
        self._machine = _machine_ticks()

    def read(self) -> Usage:
        """Takes some milliseconds: it looks at every process to find our children."""
        moment, family, machine = time.monotonic(), self._family(), _machine_ticks()
        spent_s = sum(
            max(0.0, process.cpu_s - self._cpu_s.get(pid, 0.0)) for pid, process in family.items()
        )
        busy, total = (new - old for new, old in zip(machine, self._machine, strict=True))
        elapsed_s = moment - self._read_at
        self._read_at, self._machine = moment, machine
        self._cpu_s = {pid: process.cpu_s for pid, process in family.items()}
        return Usage(
            cpu_percent=round(100 * spent_s / elapsed_s, 1) if elapsed_s > 0 else 0.0,
            memory_bytes=sum(process.memory_bytes for process in family.values()),
            machine_cpu_percent=round(100 * busy / total, 1) if total > 0 else 0.0,
        )

    def _family(self) -> dict[int, _Process]:
        """This process and all below it."""
        found = self._processes()
        family = {self._own} & found.keys()
        while more := {pid for pid, p in found.items() if p.parent in family} - family:
            family |= more
        return {pid: found[pid] for pid in family}

    def _processes(self) -> dict[int, _Process]:
        found = {}
        for name in os.listdir(PROC) if PROC.is_dir() else ():  # noqa: PTH208 - names are enough
            if name.isdecimal():
                try:
                    stat = (PROC / name / "stat").read_bytes()
                except OSError:
                    continue  # it has just ended
                fields = stat.rpartition(b")")[2].split()  # a name may hold blanks and brackets
                found[int(name)] = _Process(
                    parent=int(fields[1]),
                    cpu_s=(int(fields[11]) + int(fields[12])) * self._tick_s,
                    memory_bytes=int(fields[21]) * self._page_bytes,
                )
        return found


def _machine_ticks() -> tuple[int, int]:
    """Busy and all ticks of all cores since the machine's start; waiting for disks is not busy."""
    try:
        line = (PROC / "stat").read_bytes().partition(b"\n")[0]
    except OSError:
        return 0, 0
    ticks = [int(field) for field in line.split()[1:9]]
    idle = ticks[3] + ticks[4]
    return sum(ticks) - idle, sum(ticks)
