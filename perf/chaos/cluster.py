"""Three NATS servers as one cluster, whose clients are told no addresses but the proxies'."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import nats
import nats.errors
import nats.js.errors
from chaos.plan import QUEUES
from nats.aio.client import Client

from gateway.embedded import DataFolder, Process
from gateway.embedded.nats import USER, _answers
from gateway.embedded.process import Command

READY_S = 60.0
ASK_S = 2.0


@dataclass(frozen=True, slots=True)
class Cluster:
    """The running servers, and a connection to them that no fault is meant for."""

    servers: Mapping[str, Process]
    ports: Mapping[str, int]
    password: str
    client: Client

    def url_at(self, ports: Mapping[str, int]) -> str:
        """The address of all servers, each at its port of `ports`."""
        return ",".join(_url(self.password, ports[name]) for name in self.servers)

    async def leader(self, stream: str) -> str | None:
        """The server that leads `stream`, or None while there is none."""
        with contextlib.suppress(nats.errors.Error, nats.js.errors.Error, TimeoutError):
            info = await self.client.jetstream(timeout=ASK_S).stream_info(stream)
            return info.cluster.leader if info.cluster is not None else None
        return None

    async def step_down(self, stream: str) -> bool:
        """Ask the leader of `stream` to hand over; whether it was heard."""
        with contextlib.suppress(nats.errors.Error, TimeoutError):
            subject = f"$JS.API.STREAM.LEADER.STEPDOWN.{stream}"
            answer = await self.client.request(subject, b"", timeout=ASK_S)
            return bool(json.loads(answer.data).get("success"))
        return False


@asynccontextmanager
async def started_cluster(folder: DataFolder) -> AsyncIterator[Cluster]:
    """Three servers that have elected a leader; ending them is the caller's."""
    password = folder.secret("nats_password")
    ports = {name: folder.port(name) for name in QUEUES}
    routes = {name: folder.port(f"{name}_route") for name in QUEUES}
    servers = {name: _server(folder, name, password, ports[name], routes) for name in QUEUES}
    async with asyncio.TaskGroup() as group:
        for name, process in servers.items():
            group.create_task(_start(process, ports[name], password))
    client = await nats.connect(
        [_url(password, port) for port in ports.values()],
        max_reconnect_attempts=-1,
        reconnect_time_wait=0.25,
        ping_interval=2,
        max_outstanding_pings=2,
        error_cb=_ignore,
    )
    try:
        async with asyncio.timeout(READY_S):
            while not await _elected(client):
                await asyncio.sleep(0.05)
        yield Cluster(servers, ports, password, client)
    finally:
        await client.close()


async def _start(process: Process, port: int, password: str) -> None:
    await process.start(lambda: _answers(port, password))


async def _elected(client: Client) -> bool:
    with contextlib.suppress(nats.errors.Error, nats.js.errors.Error, TimeoutError):
        await client.jetstream(timeout=1.0).account_info()
        return True
    return False


def _server(
    folder: DataFolder, name: str, password: str, port: int, routes: Mapping[str, int]
) -> Process:
    user = {"user": USER, "password": password}
    config = {
        "server_name": name,
        "host": "127.0.0.1",
        "port": port,
        "authorization": user,
        "jetstream": {"store_dir": str(folder.folder(name)), "sync_interval": "2m"},
        "cluster": {
            "name": "nereid",
            "host": "127.0.0.1",
            "port": routes[name],
            "authorization": user,
            "no_advertise": True,
            "routes": [_url(password, other) for other in routes.values()],
        },
    }
    path = folder.write(f"{name}.conf", json.dumps(config, indent=1))
    return Process(
        Command(
            name=name,
            argv=[str(Path(sys.executable).with_name("nats-server")), "--config", str(path)],
            log=folder.log(name),
            keep_fds=(folder.lock_fd,),
        )
    )


def _url(password: str, port: int) -> str:
    return f"nats://{USER}:{password}@127.0.0.1:{port}"


async def _ignore(_: Exception) -> None:
    """A server that is away is what this is about."""
