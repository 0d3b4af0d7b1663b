"""Starts everything, each part a process of its own with NEREID_* settings, as operators do it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from chaos.cluster import running_queue
from chaos.door import Door, door_to
from chaos.part import Part
from chaos.plan import GATEWAYS, TRITONS, WORKERS
from chaos.proxy import proxy_to
from chaos.system import System

from functions._kit.ports import Client as ApiClient
from functions._kit.secrets import hash_secret
from gateway.adapters.tables import ClientTable, open_database
from gateway.auth import api_key_lookup
from gateway.embedded import (
    DataFolder,
    Process,
    S3Settings,
    TritonSettings,
)
from gateway.embedded import postgres as embedded_postgres
from gateway.embedded import s3 as embedded_s3
from gateway.embedded import triton as embedded_triton
from gateway.embedded.process import Command, http_status
from gateway.settings import PREFIX
from gateway.signals import READY
from gateway.system import FIRST_MODELS

DRAIN_S = 10.0
GRACE_S = DRAIN_S + 10.0
START_S = 180.0
FRAMES_AT_MOST = 40
"""Of one camera that may wait: few enough to be met."""
JOBS_AT_MOST = 200
SCOPES = frozenset(
    {"media:write", "media:read", "frames:write", "alerts:read", "audio:write", "system:read"}
)
Keep = Callable[[str, Process, float], None]


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[System]:
    """Everything, started and supervised; what `stop` has not ended is ended at the end."""
    async with AsyncExitStack() as stack:
        data = await _folder(stack, folder / "servers")
        parts: dict[str, Part] = {}

        def keep(name: str, process: Process, grace_s: float = 10.0) -> None:
            parts[name] = Part(name, process, grace_s)
            stack.push_async_callback(process.stop)

        queue = await stack.enter_async_context(running_queue(folder / "nats"))
        for name, process in queue.cluster.servers.items():
            keep(name, process, 20.0)
        store = await embedded_s3.start(data, S3Settings())
        keep("s3", store.process)
        tables = await embedded_postgres.start(data)
        keep("postgres", tables.process)
        doors: dict[str, Door] = {}
        folders = {name: await _folder(stack, folder / name) for name in TRITONS}
        wanted = TritonSettings(models=FIRST_MODELS)
        tritons = await asyncio.gather(
            *(embedded_triton.start(own, wanted) for own in folders.values())
        )
        for name, triton in zip(TRITONS, tritons, strict=True):
            keep(name, triton.process, 20.0)
            doors[name] = await stack.enter_async_context(door_to(triton.url))
        ports = {
            **queue.ports,
            "s3": int(store.endpoint.rpartition(":")[2]),
            "postgres": int(tables.url.rpartition(":")[2].partition("/")[0]),
            **{name: int(door.url.rpartition(":")[2]) for name, door in doors.items()},
        }
        proxies = {
            name: await stack.enter_async_context(proxy_to(port)) for name, port in ports.items()
        }
        told = {name: proxy.listening for name, proxy in proxies.items()}
        shared = {
            "nats_url": queue.url_at(told),
            "stream_replicas": 3,
            "jobs_max_messages": JOBS_AT_MOST,
            "frames_max_messages": FRAMES_AT_MOST,
            "s3_endpoint": f"http://127.0.0.1:{told['s3']}",
            "s3_access_key": store.access_key,
            "s3_secret_key": store.secret_key,
            "s3_bucket": store.bucket,
            "database_url": tables.url.replace(f":{ports['postgres']}/", f":{told['postgres']}/"),
            "inference_timeout_s": 20,
            "token_secret": data.secret("token"),
            "webhook_secret": data.secret("webhook"),
            "allow_private_callbacks": True,
            "drain_s": DRAIN_S,
            "audio_converter_workers": 1,
        }
        http = {name: data.port(f"{name}_http") for name in GATEWAYS}
        metrics = {name: data.port(f"{name}_metrics") for name in WORKERS}
        key = data.secret("client")
        await _add_client(tables.url, data.secret("token"), key)
        await asyncio.gather(
            *(
                _start(
                    keep,
                    data,
                    name,
                    command,
                    {
                        **shared,
                        "data": folder / name,
                        "triton_url": f"127.0.0.1:{told[triton]}",
                        "port": http.get(name, 0),
                        "metrics_port": metrics.get(name, 0),
                    },
                )
                for names, command in ((GATEWAYS, "serve"), (WORKERS, "work"))
                for name, triton in zip(names, TRITONS, strict=True)
            )
        )
        system = System(
            folder=folder,
            parts=parts,
            proxies=proxies,
            doors=doors,
            queue=queue,
            gateways=tuple(f"http://127.0.0.1:{port}" for port in http.values()),
            worker_metrics={
                name: f"http://127.0.0.1:{port}/metrics" for name, port in metrics.items()
            },
            key=key,
            webhook_secret=data.secret("webhook").encode(),
        )
        system.supervise()
        try:
            yield system
        finally:
            await system.unsupervise()  # where `stop` was not reached


async def _folder(stack: AsyncExitStack, path: Path) -> DataFolder:
    folder = DataFolder(path)
    await folder.open()
    stack.callback(folder.close)
    return folder


async def _add_client(url: str, token_secret: str, key: str) -> None:
    """The one client, by its API key."""
    async with open_database(url, max_connections=1) as database:
        await ClientTable(database).add(
            ApiClient(
                client_id="chaos",
                secret_hash=hash_secret(key),
                scopes=SCOPES,
                api_key_lookup=api_key_lookup(token_secret, key),
                api_key_hash=hash_secret(key),
            )
        )


async def _start(
    keep: Keep, data: DataFolder, name: str, command: str, settings: dict[str, object]
) -> None:
    """A gateway or a worker with its NEREID_* variables, as an operator's unit file has them."""
    environment = {f"{PREFIX}{key.upper()}": str(value) for key, value in settings.items()}
    process = Process(
        Command(
            name=name,
            argv=[str(Path(sys.executable).with_name("nereid")), command],
            log=data.log(name),
            environment={"PYTHONSAFEPATH": "1"} | environment,
            keep_fds=(data.lock_fd,),
            grace_s=GRACE_S,
            deadline_s=START_S,
        )
    )

    async def answers() -> bool:
        if command == "serve":
            return await http_status(int(str(settings["port"])), "/health/live") == 200
        return any(line.startswith(READY) for line in process.tail().splitlines())

    await process.start(answers)
    keep(name, process, GRACE_S)
