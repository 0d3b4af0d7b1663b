"""How much each part holds: memory, file handles, tasks of its event loop."""

from __future__ import annotations

import asyncio
import contextlib
import re

import aiohttp
import psutil
from chaos.ledger import Size
from chaos.part import Part
from chaos.plan import GATEWAYS
from chaos.system import System

SAMPLES = 5
PAUSE_S = 1.0
TASKS = re.compile(r"^nereid_asyncio_tasks(?:\{[^}]*\})? ([\d.e+]+)$", re.MULTILINE)


async def sizes(system: System, http: aiohttp.ClientSession) -> dict[str, Size]:
    """The least of several samples: what passes is no leak."""
    found: dict[str, Size] = {}
    for _ in range(SAMPLES):
        for name, part in system.parts.items():
            size = held_by(part)
            if size is None:
                continue
            size.tasks = await _tasks(system, name, http)
            found[name] = least(found[name], size) if name in found else size
        await asyncio.sleep(PAUSE_S)
    return found


def least(one: Size, other: Size) -> Size:
    """The smaller of each figure."""
    tasks = [size.tasks for size in (one, other) if size.tasks is not None]
    return Size(
        memory_mb=min(one.memory_mb, other.memory_mb),
        handles=min(one.handles, other.handles),
        tasks=min(tasks, default=None),
    )


def held_by(part: Part) -> Size | None:
    """Memory of a part and all below it, shared pages by shares; handles of the part itself.

    None where the part itself cannot be measured; a child may have ended meanwhile.
    """
    memory, handles = 0.0, None
    for process in part.tree:
        with contextlib.suppress(psutil.Error):
            memory += process.memory_full_info().pss / (1 << 20)
            if process.pid == part.process.pid:
                handles = process.num_fds()
    return None if handles is None else Size(memory_mb=round(memory, 1), handles=handles)


async def _tasks(system: System, name: str, http: aiohttp.ClientSession) -> int | None:
    if name in GATEWAYS:
        url = system.gateways[GATEWAYS.index(name)] + "/metrics"
    elif name in system.worker_metrics:
        url = system.worker_metrics[name]
    else:
        return None
    with contextlib.suppress(aiohttp.ClientError, TimeoutError):
        async with http.get(url) as answer:
            if found := TASKS.search(await answer.text()):
                return int(float(found[1]))
    return None
