"""What starts the system's parts again goes on where nothing can be told, and fails aloud."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest

from gateway.cli import up
from gateway.cli.progress import ModelLines
from gateway.embedded import StartError, servers
from gateway.first_models import ModelProgress
from gateway.keeping import Keepers
from gateway.settings import Settings


def test_where_stderr_cannot_be_written_the_system_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    full = Path("/dev/full").open("w")  # noqa: SIM115 - closing it is an error of its own
    monkeypatch.setattr(sys, "stderr", full)
    with pytest.raises(OSError, match="No space left"):
        click.echo("x", err=True)
    up.report("postgres", None)
    up.report("postgres", 0.1)
    for seconds, problem in ((1.0, None), (1.0, "it is broken")):
        ModelLines().show(
            ModelProgress(model="a", number=1, total=1, seconds=seconds, problem=problem)
        )
    with contextlib.suppress(OSError):
        full.close()


async def test_a_server_that_cannot_be_run_yet_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(servers, "FIRST_RESTART_S", 0.0)
    failures = iter([OSError(28, "No space left"), StartError("nats", "it died")])
    deaths = iter([-9])
    back = asyncio.Event()

    async def exited() -> int:
        status = next(deaths, None)
        return await asyncio.Future() if status is None else status

    async def restart() -> None:
        for error in failures:
            raise error

    process: Any = SimpleNamespace(exited=exited, restart=restart)
    keeping = asyncio.create_task(
        servers._keep_running("nats", process, lambda *_: None, lambda _: back.set())
    )
    await asyncio.wait({keeping, asyncio.create_task(back.wait())}, return_when="FIRST_COMPLETED")
    assert not keeping.done()
    keeping.cancel()


async def test_a_keeper_that_ends_with_an_error_is_told_to_whoever_waits() -> None:
    async def ends() -> None: ...

    async def waits() -> None:
        await asyncio.Event().wait()

    async def fails() -> None:
        raise ValueError("a fault of ours")

    keepers = Keepers()
    waiting = asyncio.create_task(waits())
    keepers.watch(waiting)
    keepers.start(waits())
    keepers.start(ends())
    keepers.start(fails())
    with pytest.raises(ValueError, match="a fault of ours"):
        await keepers.failed()
    await keepers.end()
    assert not waiting.done()
    waiting.cancel()


async def test_up_ends_with_the_error_of_what_kept_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def fails() -> None:
        raise ValueError("a fault of ours")

    @contextlib.asynccontextmanager
    async def running(*_: object) -> AsyncIterator[Any]:
        keepers = Keepers()
        keepers.start(fails())
        models = SimpleNamespace(loaded=asyncio.Event(), broken={})
        # no database answers there, which is no fault
        settings = Settings(data=tmp_path, database_url="postgresql://127.0.0.1:1/none")
        try:
            yield SimpleNamespace(
                notices=(), url="x", keepers=keepers, models=models, settings=settings
            )
        finally:
            await keepers.end()

    monkeypatch.setattr(up, "running_system", running)
    with pytest.raises(ValueError, match="a fault of ours"):
        await asyncio.wait_for(up._up(Settings()), 60)
