"""`just bench upscale | memory | prompt`: photos through the whole system."""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys
import tempfile
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pyvips
from measure import PEERS, Engine, forget_peak, peak_mb, ratio, resident_mb, row, say, system, timed

from functions._kit.messages import new_id, now
from functions.tasks.contracts import Status, Task, TaskEvent, final_id
from gateway.adapters.tables import TaskTable, open_database
from gateway.runtime import required
from gateway.settings import CHECKOUT

PHOTO = CHECKOUT / "tests" / "data" / "coffee.png"
MODEL = "realesr-animevideov3-x2"


async def upscale(options: argparse.Namespace) -> None:
    """A 1920 x 1080 photo by 2: the bare engine, the whole path, and Real-ESRGAN's own code."""
    with tempfile.TemporaryDirectory(prefix="nereid-bench-") as folder:
        photo = make_photo(Path(folder), 1920, 1080)
        engine = Engine([sys.executable, str(PEERS / "bare_upscale.py"), str(photo)])
        peer = None
        if options.peer_python is not None:
            script = PEERS / "peer_realesrgan.py"
            peer = Engine([str(options.peer_python), str(script), str(photo)])
        async with system(Path(folder)) as (running, http):
            path = await upload(http, photo)
            await engine.run(), await process(http, path)  # warm up
            alone: dict[str, list[float]] = {"engine": [], "path": [], "peer": []}
            many: list[float] = []
            for _ in range(options.runs):
                alone["engine"].append(await engine.run())
                alone["path"].append(await timed(process(http, path)))
                together = [process(http, path) for _ in range(options.at_once)]
                many.append(await timed(asyncio.gather(*together)))
                if peer is not None:
                    alone["peer"].append(await peer.run())
            del running
    same = {"photo": "1920x1080 JPEG", "scale": 2, "model": MODEL, "runs": options.runs}
    row("upscale.engine", alone["engine"], at_once=1, engine=engine.facts, **same)
    row("upscale.path", alone["path"], at_once=1, **same)
    row("upscale.path", many, at_once=options.at_once, **same)
    ratios = {
        "path/engine": ratio(alone["path"], alone["engine"]),
        f"path of {options.at_once} / engine": ratio(many, alone["engine"]) / options.at_once,
    }
    limits = {"path/engine": "<= 1.25", f"path of {options.at_once} / engine": "<= 1.10"}
    if peer is not None:
        row("upscale.peer", alone["peer"], at_once=1, engine=peer.facts, **same)
        ratios["peer/path"] = ratio(alone["peer"], alone["path"])
        ratios["peer/engine"] = ratio(alone["peer"], alone["engine"])
        limits["peer/path"] = ">= 2.5"
    say("upscale.ratios", ratios={k: round(v, 3) for k, v in ratios.items()}, limits=limits)


async def memory(options: argparse.Namespace) -> None:
    """Peak memory of the worker for a 6000 x 4000 photo, of the gateway for an upload of 1 GB."""
    with tempfile.TemporaryDirectory(prefix="nereid-bench-") as folder:
        photo = make_photo(Path(folder), 6000, 4000)
        large = Path(folder) / "large.jpg"
        large.write_bytes(photo.read_bytes())
        with large.open("ab") as file:  # bytes after the end of the picture, as motion photos have
            file.truncate(1 << 30)
        async with system(Path(folder)) as (running, http):
            await process(http, await upload(http, make_photo(Path(folder), 64, 64)))
            before = resident_mb(running.gateway.pid)
            forget_peak(running.gateway.pid)
            seconds = await timed(upload(http, large))
            say(
                "memory.upload",
                upload_bytes=large.stat().st_size,
                seconds=round(seconds, 2),
                gateway_before_mb=before,
                gateway_peak_mb=peak_mb(running.gateway.pid),
                growth_mb=round(peak_mb(running.gateway.pid) - before, 1),
                limit="growth < 64 MB",
            )
            path = await upload(http, photo)
            forget_peak(running.worker.pid)
            seconds = await timed(process(http, path))
            say(
                "memory.upscale",
                photo="6000x4000 JPEG",
                scale=2,
                seconds=round(seconds, 1),
                worker_peak_mb=peak_mb(running.worker.pid),
                limit="worker_peak_mb < 1500",
            )
    del options


async def prompt(options: argparse.Namespace) -> None:
    """How soon an idle worker starts a task; how fast a status is answered among 100,000 tasks."""
    with tempfile.TemporaryDirectory(prefix="nereid-bench-") as folder:
        async with system(Path(folder)) as (running, http):
            path = await upload(http, make_photo(Path(folder), 32, 32))
            waits: list[float] = []
            for _ in range(10 * options.runs):
                task = await process(http, path)
                began, started = (
                    datetime.fromisoformat(task[name]) for name in ("created_at", "started_at")
                )
                waits.append((started - began).total_seconds())
            row("prompt.start", waits, limit="< 0.050 s", unit="s")
            url = required(running.settings, "database_url")
            async with open_database(url) as database:
                ids = await fill(TaskTable(database), 100_000, path)
                bare = [
                    await timed(database.fetch("SELECT * FROM tasks WHERE task_id = %s", [i]))
                    for i in ids[:1000]
                ]
            status = [
                await timed(http.get(f"/api/v1/media/processingTasks/{i}")) for i in ids[:1000]
            ]
            row("prompt.bare_select", bare, unit="s", tasks=100_000)
            row("prompt.status", status, unit="s", tasks=100_000, limit="median < 0.005 s")


async def upload(http: httpx.AsyncClient, photo: Path) -> str:
    """Upload a file in chunks; return its path in the bucket."""

    async def chunks() -> AsyncIterator[bytes]:
        with photo.open("rb") as file:
            while chunk := file.read(1 << 18):
                yield chunk

    answer = await http.post("/api/v1/media", content=chunks())
    answer.raise_for_status()
    return str(answer.json()["file_path"])


async def process(
    http: httpx.AsyncClient, path: str, enhance: dict[str, Any] | None = None, priority: int = 5
) -> dict[str, Any]:
    """From the POST until the events say that it is completed; return the task."""
    body: dict[str, Any] = {"file_path": path, "workflow": "nas-photo-processing"}
    body |= {"priority": priority}
    body |= {"parameters": {"image_enhance": enhance}} if enhance else {}
    answer = await http.post("/api/v1/media:process", json=body)
    answer.raise_for_status()
    url = answer.json()["status_url"]
    last = ""
    async with http.stream("GET", f"{url}/events") as events:
        async for line in events.aiter_lines():
            if line.startswith("event: "):
                last = line.removeprefix("event: ")
    if last != Status.COMPLETED:
        raise RuntimeError(f"{url} ended as {last}")
    return dict((await http.get(url)).json())


async def fill(table: TaskTable, count: int, path: str) -> list[str]:
    """Write `count` finished tasks, whose results all lie at `path`; return their ids, shuffled."""
    ids: list[str] = []
    fixed = {"client_id": "bench", "workflow": "nas-photo-processing"}
    for _ in range(count // 1000):
        events = []
        for _ in range(1000):
            task = Task(task_id=new_id(), priority=5, created_at=now(), **fixed)
            ids.append(task.task_id)
            events.append(
                TaskEvent(
                    event_id=final_id(task.task_id),
                    task=task,
                    status=Status.COMPLETED,
                    at=now(),
                    attempts=1,
                    result={
                        "file_path": path,
                        "thumbnails": [{"file_path": path}, {"file_path": path}],
                    },
                )
            )
        await table.record(events)
    secrets.SystemRandom().shuffle(ids)
    return ids


def make_photo(folder: Path, width: int, height: int) -> Path:
    """A JPEG of this size, from a real photo."""
    path = folder / f"{width}x{height}.jpg"
    pyvips.Image.new_from_file(str(PHOTO)).thumbnail_image(
        width, height=height, crop="centre"
    ).jpegsave(str(path), Q=92)
    return path
