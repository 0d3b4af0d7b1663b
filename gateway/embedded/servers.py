"""All embedded servers as one: started side by side, stopped backwards, restarted when they die."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol, Self, TypeAlias, TypeVar, get_args

from gateway.embedded import nats, postgres, s3, triton
from gateway.embedded.folder import DataFolder
from gateway.embedded.process import Process, StartError
from gateway.embedded.triton import TritonSettings

Name: TypeAlias = Literal["nats", "s3", "postgres", "triton"]
NAMES: tuple[Name, ...] = get_args(Name)

# A server that dies again at once is not hammered; one that died once is back in a second.
FIRST_RESTART_S, LAST_RESTART_S = 0.5, 30.0


class Running(Protocol):
    """What every running server has."""

    @property
    def process(self) -> Process:
        """The server's process."""
        ...


OnS3: TypeAlias = Callable[[s3.RunningS3 | None], Awaitable[TritonSettings]]
"""Is given the embedded S3, or None where it is not wanted."""

R = TypeVar("R", bound=Running)


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedSettings:
    """The settings of each embedded server."""

    nats: nats.NatsSettings = field(default_factory=nats.NatsSettings)
    s3: s3.S3Settings = field(default_factory=s3.S3Settings)
    postgres: postgres.PostgresSettings = field(default_factory=postgres.PostgresSettings)
    triton: TritonSettings | OnS3 = field(default_factory=TritonSettings)
    """Or what makes them once the embedded S3 runs, where the model repository lies in S3."""


class EmbeddedServers:
    """The servers in `want`, on the data folder `data`, from `async with` to its end.

    `on_ready(name, seconds)` is called as each one answers. Raises `Conflict` (`data_in_use`)
    when another process owns the folder and `StartError` when a server does not come up.
    """

    def __init__(
        self,
        data: Path,
        *,
        want: Collection[Name] = NAMES,
        settings: EmbeddedSettings | None = None,
        on_ready: Callable[[Name, float], None] | None = None,
    ) -> None:
        self.folder = DataFolder(data)
        self.wanted = frozenset(want)
        self._settings = settings or EmbeddedSettings()
        self._on_ready = on_ready
        self._processes: dict[Name, Process] = {}
        self._nats: nats.RunningNats | None = None
        self._s3: s3.RunningS3 | None = None
        self._postgres: postgres.RunningPostgres | None = None
        self._triton: triton.RunningTriton | None = None
        self._s3_runs = asyncio.Event()
        self._stack = AsyncExitStack()

    @property
    def nats(self) -> nats.RunningNats:
        """The running NATS; raises `LookupError` where it was not wanted."""
        return _wanted("nats", self._nats)

    @property
    def s3(self) -> s3.RunningS3:
        """The running S3; raises `LookupError` where it was not wanted."""
        return _wanted("s3", self._s3)

    @property
    def postgres(self) -> postgres.RunningPostgres:
        """The running PostgreSQL; raises `LookupError` where it was not wanted."""
        return _wanted("postgres", self._postgres)

    @property
    def triton(self) -> triton.RunningTriton:
        """The running Triton; raises `LookupError` where it was not wanted."""
        return _wanted("triton", self._triton)

    async def __aenter__(self) -> Self:
        await self.folder.open()
        self._stack.callback(self.folder.close)
        try:
            async with asyncio.TaskGroup() as group:
                for name in NAMES:
                    if name in self.wanted:
                        group.create_task(self._start(name))
        except BaseExceptionGroup as failed:
            await self._stop()
            raise failed.exceptions[0] from None
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stop()

    async def supervise(
        self,
        on_exit: Callable[[Name, int], None],
        on_return: Callable[[Name], None] = lambda _: None,
    ) -> None:
        """Start servers that die again, on the same address, until cancelled.

        `on_exit(name, status)` is told of each death, `on_return(name)` when it answers again.
        Cancel and await this inside `async with`.
        """
        async with asyncio.TaskGroup() as group:
            for name, process in self._processes.items():
                group.create_task(_keep_running(name, process, on_exit, on_return))

    async def _start(self, name: Name) -> None:
        began = time.perf_counter()
        folder, settings = self.folder, self._settings
        match name:
            case "nats":
                self._nats = await self._keep(name, nats.start(folder, settings.nats))
            case "s3":
                self._s3 = await self._keep(name, s3.start(folder, settings.s3))
                self._s3_runs.set()
            case "postgres":
                self._postgres = await self._keep(name, postgres.start(folder, settings.postgres))
            case "triton":
                wanted = await self._triton_settings()
                began = time.perf_counter()
                self._triton = await self._keep(name, triton.start(folder, wanted))
        if self._on_ready is not None:
            self._on_ready(name, time.perf_counter() - began)

    async def _triton_settings(self) -> TritonSettings:
        wanted = self._settings.triton
        if isinstance(wanted, TritonSettings):
            return wanted
        if "s3" in self.wanted:
            await self._s3_runs.wait()
        return await wanted(self._s3)

    async def _keep(self, name: Name, starting: Awaitable[R]) -> R:
        running = await starting
        self._processes[name] = running.process
        return running

    async def _stop(self) -> None:
        """Stop in the order triton, postgres, s3, nats, then give the folder back."""
        try:
            for name in reversed(NAMES):
                if name in self._processes:
                    await self._processes.pop(name).stop()
        finally:
            await self._stack.aclose()


async def _keep_running(
    name: Name,
    process: Process,
    on_exit: Callable[[Name, int], None],
    on_return: Callable[[Name], None],
) -> None:
    while True:
        on_exit(name, await process.exited())
        pause_s = FIRST_RESTART_S
        while True:
            await asyncio.sleep(pause_s)
            try:
                await process.restart()
            except (StartError, OSError):  # it fails, or cannot even be run: no disk, no memory
                pause_s = min(2 * pause_s, LAST_RESTART_S)
            else:
                on_return(name)
                break


def _wanted(name: str, running: R | None) -> R:
    if running is None:
        raise LookupError(f"The server {name} is not among those that were started")
    return running
