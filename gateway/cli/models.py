"""`nereid models`: a custom network becomes a model that Triton serves; a served one is checked."""

from __future__ import annotations

from pathlib import Path

import click

from gateway.cli.main import DATA, configured, run
from gateway.settings import Settings

SWITCHABLE = ("detect", "transcribe", "detect_speech")
"""The capabilities of `functions._kit.capabilities.CONTRACTS`."""
FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.group()
def models() -> None:
    """The models that Triton serves."""


@models.command()
@click.argument("file", type=FILE)
@click.option("--name", help="The model's name; the file's name unless given.")
@click.option(
    "--capability",
    type=click.Choice(["upscale", "detect"]),
    default="upscale",
    show_default=True,
    help="What the network does.",
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
def add(
    file: Path,
    name: str | None,
    capability: str,
    labels: Path | None,
    min_score: float,
    iou: float,
) -> None:
    """Convert FILE (.pth, .safetensors, .onnx), check it, and add it to the model repository."""
    settings = configured()
    if capability == "detect":
        from gateway.models.detector_import import add_detector

        if labels is None:
            raise click.UsageError("--capability detect needs --labels FILE, one name a line.")
        limits = {"min_score": min_score, "iou": iou}
        add_detector(file, Path(settings.model_repository), labels, name, **limits, say=click.echo)
        return
    from gateway.models.model_import import add_model

    if labels is not None:
        raise click.UsageError("--labels belongs to --capability detect.")
    add_model(file, Path(settings.model_repository), name, say=click.echo)


@models.command()
@click.argument("model")
@DATA
def check(model: str, data: Path | None) -> None:
    """Ask the running Triton whether MODEL is what its capability demands."""
    run(_check(configured(data=data), model))


async def _check(settings: Settings, name: str) -> None:
    from functions._kit.capabilities import check_served
    from gateway.adapters.inference import TritonInference

    if settings.triton_url is None:
        raise click.UsageError("No Triton runs: start `nereid up`, or set NEREID_TRITON_URL.")
    async with TritonInference(settings.triton_url) as inference:
        capability = await check_served(inference, name)
    click.echo(f"{name} is as {capability} demands")


@models.command()
@click.argument("capability", type=click.Choice(SWITCHABLE))
@click.argument("model")
@DATA
def switch(capability: str, model: str, data: Path | None) -> None:
    """Let MODEL serve CAPABILITY from now on, in every process, once it has passed its check."""
    run(_switch(configured(data=data), capability, model))


async def _switch(settings: Settings, capability: str, name: str) -> None:
    from functions._kit.capabilities import CAPABILITIES, check_served
    from functions._kit.errors import Unprocessable
    from gateway.adapters.inference import TritonInference
    from gateway.adapters.jetstream import connect
    from gateway.adapters.keyvalue import JetStreamKeyValue
    from gateway.runtime import required

    async with TritonInference(required(settings, "triton_url")) as inference:
        kept = await check_served(inference, name)
    if kept != capability:
        raise Unprocessable("model_contract", f"{name} is a model for {kept}, not {capability}")
    client = await connect(required(settings, "nats_url"), name="nereid-models")
    try:
        await JetStreamKeyValue(client).put(CAPABILITIES, capability, name.encode())
    finally:
        await client.close()
    click.echo(f"{capability} is served by {name}")
