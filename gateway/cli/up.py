"""`nereid up`."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

import click

from functions._kit.errors import Unavailable
from gateway.cli.progress import ModelLines
from gateway.settings import Settings
from gateway.signals import until_stopped
from gateway.system import System, running_system


async def run_up(settings: Settings) -> None:
    """Run the whole system until SIGINT or SIGTERM."""
    await until_stopped(_up(settings))


async def _up(settings: Settings) -> None:
    began = time.perf_counter()
    try:
        with ModelLines() as lines:
            async with running_system(settings, report, lines.show) as system:
                for notice in system.notices:
                    click.echo(f"nats      {notice}", err=True)
                click.echo(f"ready {system.url}")
                system.keepers.start(_say_loaded(system, began))
                system.keepers.start(_say_no_clients(system.settings))
                await system.keepers.failed()
    except asyncio.CancelledError:
        click.echo("stopped", err=True)
        raise


def report(name: str, seconds: float | None) -> None:
    """One line for each part that is ready, or has died."""
    said = "died, starting it again" if seconds is None else f"ready after {seconds:.1f} s"
    _tell(f"{name:<9} {said}")


async def _say_loaded(system: System, began: float) -> None:
    await system.models.loaded.wait()
    failed = len(system.models.broken)
    said = f"loaded, but for {failed}," if failed else "loaded"
    _tell(f"models    {said} after {time.perf_counter() - began:.1f} s")


async def _say_no_clients(settings: Settings) -> None:
    from gateway.adapters.tables import ClientTable, open_database
    from gateway.runtime import required

    url = required(settings, "database_url")
    with suppress(Unavailable):  # it has just died, and is started again
        async with open_database(url, max_connections=1) as database:
            if not await ClientTable(database).all():
                _tell("no clients yet: nereid clients add NAME")


def _tell(line: str) -> None:
    with suppress(OSError):  # stderr's disk is full, or its reader is gone: the system goes on
        click.echo(line, err=True)
