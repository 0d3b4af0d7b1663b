"""`nereid up`."""

from __future__ import annotations

import asyncio

import click

from gateway.processes import until_stopped
from gateway.settings import Settings
from gateway.system import running_system


async def run_up(settings: Settings) -> None:
    """Run the whole system until SIGINT or SIGTERM."""
    await until_stopped(_up(settings))


async def _up(settings: Settings) -> None:
    try:
        async with running_system(settings, report) as system:
            for name, reason in system.broken_models.items():
                click.echo(f"the model {name} could not be loaded: {reason}", err=True)
            click.echo(f"ready {system.url}")
            if not await _has_clients(system.settings):
                click.echo("no clients yet: nereid clients add NAME", err=True)
            await asyncio.Event().wait()
    except asyncio.CancelledError:
        click.echo("stopped", err=True)
        raise


def report(name: str, seconds: float | None) -> None:
    """One line for each part that is ready, or has died."""
    said = "died, starting it again" if seconds is None else f"ready after {seconds:.1f} s"
    click.echo(f"{name:<9} {said}", err=True)


async def _has_clients(settings: Settings) -> bool:
    from gateway.adapters.tables import ClientTable, open_database
    from gateway.runtime import required

    async with open_database(required(settings, "database_url"), max_connections=1) as database:
        return bool(await ClientTable(database).all())
