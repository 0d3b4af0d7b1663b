"""The whole system as processes of its own, each started again when it dies, as operators do it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import psutil
from chaos.cluster import Queue, running_queue
from chaos.door import Door, door_to
from chaos.plan import GATEWAYS, QUEUES, TRITONS, WORKERS
from chaos.proxy import Proxy, proxy_to
from nats.aio.client import Client

from functions._kit.ports import Client as ApiClient
from functions._kit.secrets import hash_secret
from gateway.adapters.tables import ClientTable, open_database
from gateway.auth import api_key_lookup
from gateway.embedded import (
    DataFolder,
    Process,
    S3Settings,
    StartError,
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
RESTART_S = 0.5
LONGEST_PAUSE_S = 4.0
STARTS = 3
START_S = 60.0
CENSUS_S = 1.0
LEFT_S = 15.0
FRAMES_AT_MOST = 40
"""Of one camera that may wait: few enough to be met."""
JOBS_AT_MOST = 200
SCOPES = frozenset(
    {"media:write", "media:read", "frames:write", "alerts:read", "audio:write", "system:read"}
)
Keep = Callable[[str, Process, float], None]
T = TypeVar("T")
STOP_ORDER = (GATEWAYS, WORKERS, TRITONS, ("postgres", "s3"), QUEUES)


@dataclass
class Part:
    """A process with its supervisor."""

    name: str
    process: Process
    grace_s: float = 10.0
    deaths: list[float] = field(default_factory=list)
    back: list[float] = field(default_factory=list)
    """When it answered again."""
    running: bool = True

    @property
    def tree(self) -> list[psutil.Process]:
        """The process and all below it."""
        try:
            main = psutil.Process(self.process.pid)
            return [main, *main.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    async def keep(self) -> None:
        """Start it again whenever it ends, until cancelled."""
        while True:
            await self.process.exited()
            self.running = False
            self.deaths.append(time.time())
            pause_s = RESTART_S
            while not self.running:
                await asyncio.sleep(pause_s)
                with contextlib.suppress(StartError):
                    await self.process.restart()
                    self.running = True
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            self.back.append(time.time())

    async def end(self) -> bool:
        """Ask it to end; False where it had to be killed."""
        if not self.running:
            return True
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, self.process.command.stop_signal)
        try:
            async with asyncio.timeout(self.grace_s):
                await self.process.exited()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process.pid, signal.SIGKILL)
            await self.process.exited()
            return False
        return True


@dataclass
class System:
    """All parts, and what stands between them."""

    folder: Path
    parts: dict[str, Part]
    proxies: dict[str, Proxy]
    doors: dict[str, Door]
    queue: Queue
    gateways: tuple[str, ...]
    """Their URLs."""
    worker_metrics: Mapping[str, str]
    key: str
    webhook_secret: bytes
    seen: dict[tuple[int, float], str] = field(default_factory=dict)
    killed: list[str] = field(default_factory=list)
    _keepers: list[asyncio.Task[None]] = field(default_factory=list)

    @property
    def admin(self) -> Client:
        """NATS, past the proxies."""
        return self.queue.client

    def supervise(self) -> None:
        """Start what dies again, and count who is there, until `stop`."""
        self._keepers = [asyncio.create_task(part.keep()) for part in self.parts.values()]
        self._keepers.append(asyncio.create_task(self._census()))

    async def all_running(self, within_s: float) -> bool:
        """Whether every part runs before long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while not all(part.running for part in self.parts.values()):
                    await asyncio.sleep(0.1)
                return True
        return False

    async def stop(self) -> list[str]:
        """End everything in order; what had to be killed is noted. Returns what is left."""
        self._note()
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        self._keepers = []
        for group in STOP_ORDER:
            if group is QUEUES:
                await self.queue.client.close()
            ended = await asyncio.gather(*(self.parts[name].end() for name in group))
            self.killed += [
                f"{name} at the end" for name, well in zip(group, ended, strict=True) if not well
            ]
        return await asyncio.to_thread(self._left)

    def _left(self) -> list[str]:
        deadline = time.monotonic() + LEFT_S
        left = dict(self.seen)
        while left and time.monotonic() < deadline:
            left = {who: name for who, name in left.items() if alive(*who)}
            time.sleep(0.1)
        for pid, _ in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return [f"{name} ({pid})" for (pid, _), name in left.items()]

    async def _census(self) -> None:
        while True:
            self._note()
            await asyncio.sleep(CENSUS_S)

    def _note(self) -> None:
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                who = (process.pid, process.create_time())
                if who not in self.seen:
                    self.seen[who] = " ".join(process.cmdline())[:120]


def alive(pid: int, created: float) -> bool:
    """Whether that process, and no later one of its number, still runs."""
    try:
        process = psutil.Process(pid)
        return bool(process.create_time() == created and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


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
            *(_tried(partial(embedded_triton.start, own, wanted)) for own in folders.values())
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
            for keeper in system._keepers:  # noqa: SLF001 - only where `stop` was not reached
                keeper.cancel()


async def _folder(stack: AsyncExitStack, path: Path) -> DataFolder:
    folder = DataFolder(path)
    await folder.open()
    stack.callback(folder.close)
    return folder


async def _tried(start: Callable[[], Awaitable[T]]) -> T:
    """What `start` gives. On a busy machine Triton 2.51 aborts now and then while it starts."""
    for _ in range(STARTS - 1):
        with contextlib.suppress(StartError):
            return await start()
    return await start()


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

    await _tried(partial(process.start, answers))
    keep(name, process, GRACE_S)
