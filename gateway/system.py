"""`nereid up`: the whole system as one tree of processes on one data folder.

Ready means that gateway and worker take work. Nothing here imports what they import, and the first
models are loaded once they run: both would be waited for.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec

from gateway.embedded import (
    EmbeddedServers,
    EmbeddedSettings,
    Name,
    NatsSettings,
    RunningS3,
    S3Repository,
    S3Settings,
    TritonSettings,
)
from gateway.embedded.process import NICE, Command, Process, StartError, http_status
from gateway.embedded.stuck import restart_when_stuck
from gateway.first_models import FirstModels, ModelReport
from gateway.keeping import Keepers
from gateway.models.folder import FolderFiles
from gateway.models.layout import model_names, whole_versions
from gateway.models.place import S3Place, place_of
from gateway.settings import PREFIX, RUNNING, Settings
from gateway.signals import READY

FIRST_MODELS = ("realesr-animevideov3-x2", "nanodet-g-416", "silero-vad", "moonshine-tiny-en")
"""Loaded behind a running system; every other model is loaded when it is first asked for."""
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
    notices: tuple[str, ...]
    """What its streams were found to have lost since the last run, a sentence each."""
    models: FirstModels
    """How far the first models are, which are loaded behind it."""
    keepers: Keepers
    """What starts its parts again when they die; without them it must not go on."""


@asynccontextmanager
async def running_system(
    settings: Settings, report: Report, on_model: ModelReport = lambda _: None
) -> AsyncIterator[System]:
    """Start what has no address in `settings`, then the gateway and the worker, then load models.

    Parts that die are started again. At the end all are stopped: gateway, worker (drained),
    servers. Raises `SettingsError`, and `StartError` and `Conflict` as `EmbeddedServers` does.
    """
    place = place_of(settings.model_repository)
    embedded = EmbeddedServers(
        settings.data,
        want=_missing(settings),
        settings=EmbeddedSettings(
            nats=NatsSettings(sync=settings.nats_sync),
            s3=S3Settings(further_buckets=_own_buckets(place)),
            triton=await triton_settings(settings)
            if isinstance(place, Path)
            else partial(_on_s3, settings),
        ),
        on_ready=report,
    )
    async with embedded as servers:
        # The data folder is ours alone now: what a killed system left behind is nobody's.
        await asyncio.to_thread(shutil.rmtree, settings.data / "scratch", ignore_errors=True)
        full = _filled(settings, servers)
        running = servers.folder.write(RUNNING, _shared(full, servers))
        names = servers.triton.models if settings.triton_url is None else ()
        models = FirstModels(full, servers.folder, names, on_model)
        keepers = Keepers()
        keepers.start(servers.supervise(*_watched(report, models)))
        notices: tuple[str, ...] = ()
        if settings.nats_url is None:
            notices = servers.nats.notices
            keepers.start(servers.nats.marks.keep())
            keepers.start(restart_when_stuck(servers.nats.process, servers.folder.folder("nats")))
        try:
            async with _children(full, servers, report, keepers) as (gateway, worker):
                keepers.start(models.keep())
                yield System(full.url, full, gateway, worker, notices, models, keepers)
        finally:
            await keepers.end()
            models.forget()
            running.unlink(missing_ok=True)


def _watched(
    report: Report, models: FirstModels
) -> tuple[Callable[[Name, int], None], Callable[[Name], None]]:
    """What is done when a server dies, and when it has come back."""

    def died(name: Name, _: int) -> None:
        report(name, None)

    def returned(name: Name) -> None:
        if name == "triton":
            models.again()

    return died, returned


def _missing(settings: Settings) -> set[Name]:
    addresses: dict[Name, str | None] = {
        "nats": settings.nats_url,
        "s3": settings.s3_endpoint,
        "postgres": settings.database_url,
        "triton": settings.triton_url,
    }
    return {name for name, address in addresses.items() if address is None}


def _own_buckets(place: Path | S3Place) -> tuple[str, ...]:
    """The model repository's bucket, where it is one of the embedded S3."""
    return (place.bucket,) if isinstance(place, S3Place) and place.endpoint is None else ()


async def triton_settings(settings: Settings) -> TritonSettings:
    """The embedded Triton on the model repository, with those of the first models that are there.

    Raises `StartError` for one that is not built.
    """
    if settings.triton_url is not None:
        return TritonSettings()
    place = place_of(settings.model_repository)
    repository: Path | S3Repository
    if isinstance(place, Path):
        repository = place.absolute()
        paths = await FolderFiles(place).paths()
    else:
        repository, paths = await _in_s3(settings, place)
    there = [name for name in FIRST_MODELS if name in model_names(paths)]
    for name in there:
        if not whole_versions(name, (path for path in paths if path.startswith(f"{name}/"))):
            raise StartError(
                "triton",
                f"the model {name} is not built in {settings.model_repository}: "
                "run `just build-models`",
            )
    return TritonSettings(
        environment=settings.triton_environment,
        repository=repository,
        models=tuple(there),
        models_later=True,
        config_name=settings.model_config_name,
        exit_on_error=False,
        traces_url=_traces_url(settings),
        traces_headers=settings.otlp_headers or "",
    )


def _traces_url(settings: Settings) -> str:
    if not settings.otlp_endpoint:
        return ""
    from gateway.tracing.endpoint import traces_url  # noqa: PLC0415 - it imports Litestar

    return traces_url(settings.otlp_endpoint)


async def _in_s3(settings: Settings, place: S3Place) -> tuple[S3Repository, list[str]]:
    """The repository in S3, and the paths of its files."""
    # Clients of S3 take longer to import than all servers together take to start.
    from gateway.adapters.objects import open_objects  # noqa: PLC0415
    from gateway.models.opening import repository_address  # noqa: PLC0415
    from gateway.models.repository import ModelRepository  # noqa: PLC0415
    from gateway.models.s3 import S3Files  # noqa: PLC0415

    address = repository_address(settings, place)
    async with open_objects(address) as objects:
        files = S3Files(objects, place.prefix)
        await ModelRepository(files, settings.model_config_name).ensure()
        paths = await files.paths()
    repository = S3Repository(
        url=place.url(address.endpoint),
        access_key=address.access_key,
        secret_key=address.secret_key,
        region=address.region,
    )
    return repository, paths


async def _on_s3(settings: Settings, s3: RunningS3 | None) -> TritonSettings:
    return await triton_settings(settings if s3 is None else _with_s3(settings, s3))


def _with_s3(settings: Settings, s3: RunningS3) -> Settings:
    return msgspec.structs.replace(
        settings,
        s3_endpoint=s3.endpoint,
        s3_access_key=s3.access_key,
        s3_secret_key=s3.secret_key,
        s3_bucket=s3.bucket,
    )


def _filled(settings: Settings, servers: EmbeddedServers) -> Settings:
    wanted = _missing(settings)
    found: dict[str, str | int] = {}
    if "nats" in wanted:
        found["nats_url"] = servers.nats.url
    if "s3" in wanted:
        settings = _with_s3(settings, servers.s3)
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
    "model_repository",
    "model_repository_access_key",
    "model_repository_secret_key",
    "model_config_name",
)


def _shared(settings: Settings, servers: EmbeddedServers) -> str:
    """What other commands on the same data folder need to know, and whoever collects metrics."""
    told = {name: value for name in SHARED if (value := getattr(settings, name))}
    place = place_of(settings.model_repository)
    if isinstance(place, Path):
        told["model_repository"] = str(place.absolute())
    told["gateway_metrics_url"] = f"{settings.url}/metrics"
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
    settings: Settings, servers: EmbeddedServers, report: Report, keepers: Keepers
) -> AsyncIterator[tuple[Process, Process]]:
    """The gateway and the worker, started side by side, and again whenever one dies."""
    gateway = _process("gateway", "serve", settings, servers)
    worker = _process("worker", "work", settings, servers)

    async def answers_http() -> bool:
        tls = settings.tls_certificate is not None
        return await http_status(settings.port, "/health/live", tls=tls) == OK

    async def says_ready() -> bool:
        return worker.says(READY)

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
        for keeper in keeping:
            keepers.watch(keeper)
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
            nice=NICE if name == "worker" else 0,
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
            except (StartError, OSError):
                continue
            report(name, time.perf_counter() - began)
            break
