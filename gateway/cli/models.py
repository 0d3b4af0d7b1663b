"""`nereid models`: a custom network becomes a model that Triton serves; a served one is checked."""

from __future__ import annotations

from pathlib import Path

import click

from gateway.cli.main import DATA, configured, run
from gateway.cli.model_add import add
from gateway.cli.model_remove import remove
from gateway.settings import Settings

SWITCHABLE = ("detect", "transcribe", "detect_speech")
"""The capabilities of `functions._kit.capabilities.CONTRACTS`."""


@click.group()
def models() -> None:
    """The models that Triton serves."""


models.add_command(add)
models.add_command(remove)


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
