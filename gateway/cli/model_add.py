"""`nereid models add`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway.cli.main import DATA, configured, run
from gateway.settings import Settings

if TYPE_CHECKING:
    from gateway.models.adding import Wanted

FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.command()
@click.argument("source")
@click.option("--name", help="The model; that of an existing one adds a version to it.")
@click.option(
    "--capability",
    type=click.Choice(["upscale", "detect"]),
    default="upscale",
    show_default=True,
    help="What a network's file does.",
)
@click.option("--labels", type=FILE, help="detect: the names of the classes, one a line.")
@click.option(
    "--min-score",
    type=click.FloatRange(0, 1),
    default=0.2,
    show_default=True,
    help="detect: the least score of a detection.",
)
@click.option(
    "--iou",
    type=click.FloatRange(0, 1),
    default=0.6,
    show_default=True,
    help="detect: the overlap from which on two boxes of a class are one.",
)
@click.option("--golden", type=FILE, help="Golden answers (.npz); else some are computed.")
@DATA
def add(
    source: str,
    name: str | None,
    capability: str,
    labels: Path | None,
    min_score: float,
    iou: float,
    golden: Path | None,
    data: Path | None,
) -> None:
    """Add SOURCE to the model repository, as a new model or as the next version of its model.

    SOURCE is a network (.onnx, .pth, .safetensors), which is converted; a model's folder for
    Triton, of which the newest version is taken; a version's folder; or one of these in S3, as
    s3://bucket/prefix. Nothing is served by it: see `nereid models check`.
    """
    from gateway.models.adding import Wanted

    if labels is not None and capability != "detect":
        raise click.UsageError("--labels belongs to --capability detect.")
    wanted = Wanted(
        name=name,
        capability=capability,
        labels=labels,
        min_score=min_score,
        iou=iou,
        golden=golden,
    )
    run(_add(configured(data=data), source, wanted))


async def _add(settings: Settings, source: str, wanted: Wanted) -> None:
    from gateway.models.adding import add as add_to
    from gateway.models.fetching import fetched
    from gateway.models.opening import open_repository

    with tempfile.TemporaryDirectory() as scratch:
        place = await fetched(source, settings, Path(scratch))
        async with open_repository(settings) as repository:
            for added in await add_to(repository, place, source, wanted, say=click.echo):
                click.echo(f"{added.model}: added version {added.version}")
                if added.without_golden:
                    click.echo(
                        f"{added.model}: it has no golden answers, for {added.without_golden};"
                        " its check knows only the contract and its probes"
                    )
