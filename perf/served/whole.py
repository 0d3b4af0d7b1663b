"""Photos through the whole system over HTTP, with Triton on GPUs. It has never run on a GPU."""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
from benches.photos import make_photo, process, upload
from measure import peak_mb, system, timed
from served.lines import LoadLine
from served.machine import gpu_use
from served.measuring import common
from served.targets import Load

from gateway.runtime import required

NO_CLUSTER = "it needs a cluster that starts workers by itself (Kubernetes with KEDA)"
SAMPLE_S = 1.0


async def measure_load(
    load: Load, gpus: int, scratch: Path, *, triton: str, config: str = "tensorrt"
) -> LoadLine:
    """The figures that were found, and why others could not be. `triton`: empty for our own."""
    enhance: dict[str, Any] = {"model": load.model, "scale_factor": load.scale}
    missing = {"scale_out_s": NO_CLUSTER}
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        photo = make_photo(Path(folder), load.width, load.height)
        async with system(Path(folder), triton_url=triton or None) as (running, http):
            path = await upload(http, photo)
            await process(http, path, enhance)  # warm up
            using = asyncio.create_task(_sample())
            found = await _flood(http, path, enhance, load, gpus)
            using.cancel()
            shares = (await asyncio.gather(using, return_exceptions=True))[0]
            if isinstance(shares, list) and shares:
                found["gpu_use"] = statistics.mean(shares)
            else:
                missing["gpu_use"] = "nvidia-smi did not say"
            found["worker_memory_gb"] = peak_mb(running.worker.pid) / 1024
            os.kill(running.worker.pid, signal.SIGKILL)
            found["recovery_s"] = await timed(process(http, path, enhance))
            url = required(running.settings, "triton_url")
            facts = await common(url, load.name, load.model, config)
    return LoadLine(
        **facts,
        gpus=gpus,
        width=load.width,
        height=load.height,
        scale=load.scale,
        clients=load.clients_per_gpu * gpus,
        photos=load.photos_per_gpu * gpus,
        figures=found,
        missing=missing,
    )


async def _flood(
    http: httpx.AsyncClient, path: str, enhance: dict[str, Any], load: Load, gpus: int
) -> dict[str, float]:
    """As many clients as the load says, each with one photo after the other."""
    seconds: list[float] = []
    failed = 0
    waiting = iter(range(load.photos_per_gpu * gpus))

    async def client() -> None:
        nonlocal failed
        for _ in waiting:
            try:
                seconds.append(await timed(process(http, path, enhance)))
            except (RuntimeError, httpx.HTTPError):
                failed += 1

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(load.clients_per_gpu * gpus)))
    took = time.perf_counter() - began
    found = {"error_share": failed / (failed + len(seconds))}
    if seconds:
        ordered = sorted(seconds)
        found["median_s"] = statistics.median(ordered)
        found["p95_s"] = ordered[int(0.95 * (len(ordered) - 1))]
        found["images_per_minute"] = len(seconds) / took * 60
    return found


async def _sample() -> list[float]:
    """The GPUs' use each second until cancelled."""
    shares: list[float] = []
    try:
        while True:
            shares.append(await asyncio.to_thread(gpu_use))
            await asyncio.sleep(SAMPLE_S)
    except asyncio.CancelledError:
        return shares
