"""What benchmarks share: a system of their own, engines beside it, rows of JSON."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import psutil
from served.machine import machine

from functions._kit.ports import Client
from functions._kit.secrets import hash_secret
from gateway.adapters.tables import ClientTable, open_database
from gateway.runtime import required
from gateway.settings import CHECKOUT, load
from gateway.system import System, running_system

PEERS = Path(__file__).parent / "peers"
"""Bare engines and other people's programs, each run in a process of its own."""
RESULTS = Path(__file__).parent / "results"
"""Lines that were kept, a file for each command or benchmark; in git."""
PARTS = {
    "worker": "nereid work",
    "gateway": "nereid serve",
    "nats": "nats-server",
    "s3": "rclone",
    "postgres": "postgres",
    "triton": "triton",
    "converters": "gateway.adapters.confined.sound_child",
    "decoders": "gateway.adapters.confined.picture_child",
}
"""How the command line of each part is known."""
_KEPT: ContextVar[Path | None] = ContextVar("kept", default=None)
SCOPES = frozenset({"media:write", "media:read", "frames:write", "alerts:read", "audio:write"})


@contextlib.asynccontextmanager
async def system(folder: Path, **given: Any) -> AsyncIterator[tuple[System, httpx.AsyncClient]]:
    """A whole system of its own, and a client that is logged in."""
    settings = load({}, data=folder / "data", port=0, **given)
    async with running_system(settings, lambda _, __: None) as running:
        await running.models.loaded.wait()
        secret = secrets.token_urlsafe(16)
        url = required(running.settings, "database_url")
        async with open_database(url, max_connections=1) as database:
            await ClientTable(database).add(
                Client(client_id="bench", secret_hash=hash_secret(secret), scopes=SCOPES)
            )
        async with httpx.AsyncClient(base_url=running.url, timeout=3600) as http:
            credentials = {"client_id": "bench", "client_secret": secret}
            answer = await http.post(
                "/api/v1/auth/token", json=credentials | {"grant_type": "client_credentials"}
            )
            http.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
            yield running, http


class Engine:
    """A process that does its work once for each line it is sent, and says what it found."""

    def __init__(self, command: list[str]) -> None:
        environment = os.environ | {"PYTHONSAFEPATH": "1"}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.facts: dict[str, Any] = json.loads(self._read())

    async def run(self, what: str = "go") -> float:
        """What one run finds: seconds, or a rate."""
        return float(await asyncio.to_thread(self._ask, what))

    def end(self) -> None:
        """Let the process end, which it does when nobody asks any more."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _ask(self, what: str) -> str:
        if self._process.stdin is not None:
            self._process.stdin.write(f"{what}\n")
            self._process.stdin.flush()
        return self._read()

    def _read(self) -> str:
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            raise RuntimeError(f"{self._process.args!r} ended")
        return line


async def timed(work: Awaitable[Any]) -> float:
    """Seconds that `work` takes."""
    began = time.perf_counter()
    await work
    return time.perf_counter() - began


def row(name: str, seconds: list[float], **conditions: Any) -> None:
    """One row: median and spread of what was measured."""
    ordered = sorted(seconds)
    say(
        name,
        median_s=round(statistics.median(ordered), 4),
        least_s=round(ordered[0], 4),
        p95_s=round(ordered[int(0.95 * (len(ordered) - 1))], 4),
        most_s=round(ordered[-1], 4),
        **conditions,
    )


def must(held: bool, limit: str) -> None:  # noqa: FBT001 - as in `assert`
    """End with status 1, and a sentence on stderr, where a measured limit was not held."""
    if not held:
        sys.exit(f"not held: {limit}")


def ratio(one: list[float], other: list[float]) -> float:
    """Median of the ratios of measurements made turn about."""
    return statistics.median(a / b for a, b in zip(one, other, strict=True))


def say(name: str, **facts: Any) -> None:
    """Print a JSON line with the conditions that hold for all rows; keep it where that is asked."""
    line = json.dumps({"row": name} | facts | (conditions() | facts))
    print(line, flush=True)
    if path := _KEPT.get():
        path.parent.mkdir(exist_ok=True)
        with path.open("a") as file:
            file.write(f"{line}\n")


@contextlib.contextmanager
def keeping(name: str, *, keep: bool) -> Iterator[None]:
    """Note the conditions now, before there is any load; with `keep`, `say` adds to a file, too.

    That file is perf/results/`name`.jsonl, to be committed.
    """
    conditions()
    token = _KEPT.set(RESULTS / f"{name}.jsonl" if keep else None)
    try:
        yield
    finally:
        _KEPT.reset(token)


@cache
def conditions() -> dict[str, Any]:
    """What every row of this run was measured on, and when it began."""
    here = machine()
    return {
        "device": f"{here.cpu}, {here.cores} cores",
        "simd": here.simd,
        "gpus": here.gpus,
        "memory_gb": round(psutil.virtual_memory().total / (1 << 30), 1),
        "load_before": [round(load, 2) for load in os.getloadavg()],
        "commit": _git("rev-parse", "--short", "HEAD"),
        "dirty": bool(_git("status", "--porcelain", "--", ".", ":!perf/results")),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join([f"just {Path(sys.argv[0]).stem}", *sys.argv[1:]]),
    }


def _git(*words: str) -> str:
    asked = ["git", "-C", str(CHECKOUT), *words]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()


def cpu_seconds() -> dict[str, float]:
    """CPU time that each part of the system has used so far, its children included."""
    used: dict[str, float] = {}
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if part := part_of(process):
                times = process.cpu_times()
                used[part] = used.get(part, 0.0) + times.user + times.system
    own = psutil.Process().cpu_times()
    return used | {"benchmark": own.user + own.system}


def part_of(process: psutil.Process) -> str | None:
    """Which part of the system a process belongs to, by its command line."""
    line = " ".join(process.cmdline())
    return next((part for part, words in PARTS.items() if words in line), None)


def resident_mb(pid: int) -> float:
    """Resident memory now."""
    return _status_mb(pid, "VmRSS")


def peak_mb(pid: int) -> float:
    """Highest resident memory since `forget_peak`."""
    return _status_mb(pid, "VmHWM")


def forget_peak(pid: int) -> None:
    """Let the peak begin again (proc(5), clear_refs)."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def _status_mb(pid: int, name: str) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    kilobytes = next(line.split()[1] for line in lines if line.startswith(name))
    return round(int(kilobytes) / 1024, 1)
