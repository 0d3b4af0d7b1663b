"""`nereid models remove`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway.cli.main import DATA, configured, run
from gateway.settings import Settings

if TYPE_CHECKING:
    from functions._kit.ports import KeyValue


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

    if settings.nats_url is None or settings.triton_url is None:
        click.echo("no system runs here, so nobody is asked what is in use", err=True)
        async with open_repository(settings) as repository:
            gone = await remove_from(repository, model, version, in_use=_nothing, server=None)
    else:
        from gateway.cli.models import model_ports

        async with model_ports(settings) as ports:
            first = (await ports.repository.admitted(model))[:1]
            gone = await remove_from(
                ports.repository,
                model,
                version,
                in_use=partial(_use, ports.values, first),
                server=ports.triton,
            )
    click.echo(f"{model}: removed version {', '.join(gone)}")


def _nothing(_model: str, _version: str) -> None:
    """No use of any version is known."""


def _use(values: KeyValue, first: list[str], model: str, version: str) -> str | None:
    """What the version is needed for; `first` is what serves where nobody has switched."""
    from functions._kit.capabilities import DEFAULT_MODELS, UPSCALE
    from functions._kit.rollout.changes import in_use
    from functions._kit.rollout.state import Target, serving_of
    from functions.media.contracts import PUBLISHED_SCALES

    by_name = {f"{UPSCALE}{name}": name for name in PUBLISHED_SCALES}
    for capability, default in (DEFAULT_MODELS | by_name).items():
        is_default = default == model and serving_of(values, capability).active is None
        if is_default and [version] == first:
            return f"serves {capability}"
    return in_use(values, Target(model=model, version=version))
