"""Several NATS servers as one cluster on loopback: for tests and measurements."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import nats
import nats.errors
import nats.js.errors
from nats.aio.client import Client

from gateway.embedded.folder import DataFolder
from gateway.embedded.nats import USER, answers
from gateway.embedded.process import Command, Process

READY_S = 120.0
PROBE_INTERVAL_S = 0.05


@dataclass(frozen=True, slots=True)
class RunningCluster:
    """A cluster that has elected its leader. `url` names all servers, with commas in between."""

    url: str
    servers: Mapping[str, Process]
    """By server name. A process may be killed, or halted, and started again by `restart`."""

    async def leader(self, stream: str) -> str:
        """The name of the server that leads `stream`, waited for while it is being elected."""
        async with self._client() as client:
            js = client.jetstream(timeout=1.0)
            async with asyncio.timeout(READY_S):
                while True:
                    with contextlib.suppress(nats.errors.Error, nats.js.errors.Error):
                        cluster = (await js.stream_info(stream)).cluster
                        if cluster is not None and cluster.leader:
                            return cluster.leader
                    await asyncio.sleep(PROBE_INTERVAL_S)

    async def whole(self) -> None:
        """Return when all servers run and every stream's copies are current."""
        async with self._client() as client, asyncio.timeout(READY_S):
            while True:
                if await self._is_whole(client):
                    return
                await asyncio.sleep(PROBE_INTERVAL_S)

    async def _is_whole(self, client: Client) -> bool:
        with contextlib.suppress(nats.errors.Error, nats.js.errors.Error):
            js = client.jetstream(timeout=1.0)
            await js.account_info()
            for info in await js.streams_info():
                followers = info.cluster.replicas or [] if info.cluster is not None else []
                led = info.cluster is not None and bool(info.cluster.leader)
                if not led or any(not peer.current or peer.offline for peer in followers):
                    return False
            return True
        return False

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[Client]:
        """Of whichever server answers."""
        async with asyncio.timeout(READY_S):
            client = await nats.connect(
                self.url.split(","), max_reconnect_attempts=-1, error_cb=_ignore
            )
        try:
            yield client
        finally:
            await client.close()


@asynccontextmanager
async def nats_cluster(data: Path, *, size: int = 3) -> AsyncIterator[RunningCluster]:
    """A cluster of `size` servers whose streams lie in the folder `data`, while the block runs.

    Raises `StartError` where a server does not come up.
    """
    folder = DataFolder(data)
    await folder.open()
    async with AsyncExitStack() as stack:
        stack.callback(folder.close)
        names = [f"nats-{number}" for number in range(1, size + 1)]
        password = folder.secret("nats_password")
        ports = {name: folder.port(name) for name in names}
        routes = {name: folder.port(f"{name}_route") for name in names}
        servers = {name: _server(folder, name, ports[name], routes) for name in names}
        for process in servers.values():
            stack.push_async_callback(process.stop)

        async def start(name: str) -> None:
            await servers[name].start(lambda: answers(ports[name], password))

        async with asyncio.TaskGroup() as group:
            for name in names:
                group.create_task(start(name))
        url = ",".join(f"nats://{USER}:{password}@127.0.0.1:{port}" for port in ports.values())
        cluster = RunningCluster(url, servers)
        await cluster.whole()
        yield cluster


def _server(folder: DataFolder, name: str, port: int, routes: Mapping[str, int]) -> Process:
    user = {"user": USER, "password": folder.secret("nats_password")}
    address = f"nats://{USER}:{user['password']}@127.0.0.1"
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
            # whoever comes knows all servers already, perhaps by other addresses than these
            "no_advertise": True,
            "routes": [f"{address}:{other}" for other in routes.values()],
        },
    }
    path = folder.write(f"{name}.conf", json.dumps(config, indent=1))
    return Process(
        Command(
            name=name,
            argv=[str(Path(sys.executable).with_name("nats-server")), "--config", str(path)],
            log=folder.log(name),
            stop_signal=signal.SIGTERM,
            keep_fds=(folder.lock_fd,),
        )
    )


async def _ignore(_: Exception) -> None:
    """A server that is away is why we ask another."""
