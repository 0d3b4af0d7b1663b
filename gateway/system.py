"""`nereid up`: the whole system as one tree of processes on one data folder."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from gateway.embedded import EmbeddedServers, EmbeddedSettings, Name, TritonSettings
from gateway.embedded.process import Command, Process, StartError, http_status
from gateway.processes import READY
from gateway.settings import PREFIX, RUNNING, Settings
from gateway.tracing.endpoint import traces_url

FIRST_MODELS = ("realesr-animevideov3-x2", "nanodet-g-416", "silero-vad", "moonshine-tiny-en")
"""Loaded before `ready`; every other model is loaded when it is first asked for."""
RESTART_S = 0.5
OK = 200

Report = Callable[[str, float | None], None]
"""Told of each part: its name, and the seconds until it was ready, or None when it died."""


@dataclass(frozen=True, slots=True)
class System:
    """A running system."""

    url: str
    settings: Settings
    """The settings with every address and secret filled in."""
    gateway: Process
    worker: Process


@asynccontextmanager
async def running_system(settings: Settings, report: Report) -> AsyncIterator[System]:
    """Start what has no address in `settings`, then the gateway and the worker.

    Parts that die are started again. At the end all are stopped: gateway, worker (drained),
    servers. Raises `SettingsError`, and `StartError` and `Conflict` as `EmbeddedServers` does.
    """
    embedded = EmbeddedServers(
        settings.data,
        want=_missing(settings),
        settings=EmbeddedSettings(triton=triton_settings(settings)),
        on_ready=report,
    )
    _check_models(settings)
    async with embedded as servers:
        # The data folder is ours alone now: what a killed system left behind is nobody's.
        await asyncio.to_thread(shutil.rmtree, settings.data / "scratch", ignore_errors=True)
        full = _filled(settings, servers)
        running = servers.folder.write(RUNNING, _shared(full, servers))
        supervising = asyncio.create_task(servers.supervise(lambda name, _: report(name, None)))
        try:
            async with _children(full, servers, report) as (gateway, worker):
                yield System(f"http://{full.host}:{full.port}", full, gateway, worker)
        finally:
            supervising.cancel()
            await asyncio.gather(supervising, return_exceptions=True)
            running.unlink(missing_ok=True)


def triton_settings(settings: Settings) -> TritonSettings:
    """How the embedded Triton runs. Raises `SettingsError`."""
    return TritonSettings(
        environment=settings.triton_environment,
        repository=settings.model_repository.absolute(),
        models=tuple(m for m in FIRST_MODELS if (settings.model_repository / m).is_dir()),
        traces_url=traces_url(settings.otlp_endpoint) if settings.otlp_endpoint else "",
        traces_headers=settings.otlp_headers or "",
    )


def _missing(settings: Settings) -> set[Name]:
    addresses: dict[Name, str | None] = {
        "nats": settings.nats_url,
        "s3": settings.s3_endpoint,
        "postgres": settings.database_url,
        "triton": settings.triton_url,
    }
    return {name for name, address in addresses.items() if address is None}


def _check_models(settings: Settings) -> None:
    if settings.triton_url is not None:
        return
    for name in FIRST_MODELS:
        folder = settings.model_repository / name
        if folder.is_dir() and not any((folder / "1").glob("*.onnx")):
            raise StartError(
                "triton",
                f"the model {name} is not built in {settings.model_repository}: "
                "run `just build-models`",
            )


def _filled(settings: Settings, servers: EmbeddedServers) -> Settings:
    wanted = _missing(settings)
    found: dict[str, str | int] = {}
    if "nats" in wanted:
        found["nats_url"] = servers.nats.url
    if "s3" in wanted:
        found |= {
            "s3_endpoint": servers.s3.endpoint,
            "s3_access_key": servers.s3.access_key,
            "s3_secret_key": servers.s3.secret_key,
            "s3_bucket": servers.s3.bucket,
        }
    if "postgres" in wanted:
        found["database_url"] = servers.postgres.url
    if "triton" in wanted:
        found["triton_url"] = servers.triton.url
    if settings.token_secret is None:
        found["token_secret"] = servers.folder.secret("token")
    if settings.webhook_secret is None:
        found["webhook_secret"] = servers.folder.secret("webhook")
    if settings.port == 0:
        found["port"] = servers.folder.port("http")
    if settings.metrics_port == 0:
        found["metrics_port"] = servers.folder.port("worker_metrics")
    return msgspec.structs.replace(settings, **found)


SHARED = (
    "nats_url",
    "s3_endpoint",
    "s3_access_key",
    "s3_secret_key",
    "database_url",
    "triton_url",
    "token_secret",
    "webhook_secret",
)


def _shared(settings: Settings, servers: EmbeddedServers) -> str:
    """What other commands on the same data folder need to know, and whoever collects metrics."""
    told = {name: getattr(settings, name) for name in SHARED}
    told["gateway_metrics_url"] = f"http://{settings.host}:{settings.port}/metrics"
    told["worker_metrics_url"] = f"http://{settings.metrics_host}:{settings.metrics_port}/metrics"
    if "triton" in servers.wanted:
        told["triton_metrics_url"] = servers.triton.metrics_url
    return msgspec.json.encode(told).decode()


def _environment(settings: Settings) -> dict[str, str]:
    """The settings as the variables of a child."""
    values = {
        f"{PREFIX}{name.upper()}": str(value)
        for name, value in msgspec.structs.asdict(settings).items()
        if value is not None
    }
    return {"PATH": os.environ.get("PATH", ""), "PYTHONSAFEPATH": "1"} | values


@asynccontextmanager
async def _children(
    settings: Settings, servers: EmbeddedServers, report: Report
) -> AsyncIterator[tuple[Process, Process]]:
    """The gateway and the worker, started side by side, and again whenever one dies."""
    gateway = _process("gateway", "serve", settings, servers)
    worker = _process("worker", "work", settings, servers)

    async def answers_http() -> bool:
        return await http_status(settings.port, "/health/live") == OK

    async def says_ready() -> bool:
        return any(line.startswith(READY) for line in worker.tail().splitlines())

    async def start(process: Process, probe: Callable[[], Awaitable[bool]]) -> None:
        began = time.perf_counter()
        await process.start(probe)
        report(process.command.name, time.perf_counter() - began)

    keeping: list[asyncio.Task[None]] = []
    try:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(start(gateway, answers_http))
                group.create_task(start(worker, says_ready))
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None
        keeping = [asyncio.create_task(_keep(process, report)) for process in (gateway, worker)]
        yield gateway, worker
    finally:
        for keeper in keeping:
            keeper.cancel()
        await asyncio.gather(*keeping, return_exceptions=True)
        await gateway.stop()  # first, so that nothing new comes in
        await worker.stop()


def _process(name: str, command: str, settings: Settings, servers: EmbeddedServers) -> Process:
    return Process(
        Command(
            name=name,
            argv=[str(Path(sys.executable).parent / "nereid"), command],
            log=servers.folder.log(name),
            environment=_environment(settings),
            keep_fds=(servers.folder.lock_fd,),
            grace_s=settings.drain_s + 10,
        )
    )


async def _keep(process: Process, report: Report) -> None:
    name = process.command.name
    while True:
        await process.exited()
        report(name, None)
        while True:
            await asyncio.sleep(RESTART_S)
            began = time.perf_counter()
            try:
                await process.restart()
            except StartError:
                continue
            report(name, time.perf_counter() - began)
            break
