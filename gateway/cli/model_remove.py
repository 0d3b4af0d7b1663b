"""`nereid models remove`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import click

from gateway.cli.main import DATA, configured, run
from gateway.models.removing import Server
from gateway.models.repository import InUse
from gateway.settings import Settings


@click.command()
@click.argument("model")
@click.argument("version", required=False)
@DATA
def remove(model: str, version: str | None, data: Path | None) -> None:
    """Remove VERSION of MODEL, or all of MODEL, where nothing is served by it."""
    run(_remove(configured(data=data), model, version))


async def _remove(settings: Settings, model: str, version: str | None) -> None:
    from gateway.models.opening import open_repository
    from gateway.models.removing import remove as remove_from

    async with open_repository(settings) as repository, _running(settings) as (in_use, server):
        gone = await remove_from(repository, model, version, in_use=in_use, server=server)
    click.echo(f"{model}: removed version {', '.join(gone)}")


@asynccontextmanager
async def _running(settings: Settings) -> AsyncIterator[tuple[InUse, Server | None]]:
    """Who uses which version, and the Triton to tell; nobody and none where no system runs."""
    yield (lambda _model, _version: None), None
