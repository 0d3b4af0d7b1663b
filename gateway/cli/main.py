"""`nereid`: its commands, and errors as one clear line."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Coroutine
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import uvloop

from functions._kit.errors import NereidError
from gateway.redaction import RedactingFormatter
from gateway.settings import Settings, SettingsError, load, secrets_of

DATA = click.option(
    "--data", type=click.Path(path_type=Path), help="Folder of the system's state [.nereid]."
)
ONLY = click.option(
    "--only", multiple=True, metavar="FUNCTION", help="Run this function alone; may be repeated."
)


GROUPS = {
    "backup": "gateway.cli.backup",
    "clients": "gateway.cli.clients",
    "models": "gateway.cli.models",
    "restore": "gateway.cli.restore",
}
"""Commands in a module of the same name, read when one is asked for: `up` shall start at once."""


class Cli(click.Group):
    """Turns our own errors into one line on stderr and exit status 1."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All of them, by name."""
        return sorted({*super().list_commands(ctx), *GROUPS})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name."""
        if cmd_name not in GROUPS:
            return super().get_command(ctx, cmd_name)
        found: click.Command = getattr(import_module(GROUPS[cmd_name]), cmd_name)
        return found

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except (NereidError, SettingsError) as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=Cli, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Nereid: self-hosted media AI."""


@main.command()
@DATA
@click.option("--host", help="Address to listen on [127.0.0.1].")
@click.option("--port", type=int, help="HTTP port; 0 takes a free one [8000].")
def up(data: Path | None, host: str | None, port: int | None) -> None:
    """Run everything until Ctrl-C: embedded servers, gateway, worker."""
    from gateway.cli.up import run_up

    settings = configured(running=False, data=data, host=host, port=port)
    run(run_up(settings))


@main.command()
@ONLY
@DATA
@click.option("--host", help="Address to listen on [127.0.0.1].")
@click.option("--port", type=int, help="HTTP port [8000].")
def serve(only: tuple[str, ...], data: Path | None, host: str | None, port: int | None) -> None:
    """Run HTTP functions."""
    from gateway.processes import serve as serve_http

    run(serve_http(configured(data=data, host=host, port=port), only))


@main.command()
@ONLY
@DATA
def work(only: tuple[str, ...], data: Path | None) -> None:
    """Run NATS functions; as many processes as you like."""
    from gateway.processes import work as work_nats

    run(work_nats(configured(data=data), only))


@main.command(name="list")
def list_functions() -> None:
    """Show every function with its routes, subjects and policies."""
    from gateway.cli.listing import lines

    for line in lines():
        click.echo(line)


@main.command()
@click.option("--photo", type=click.Path(path_type=Path, exists=True), help="Your own photo.")
@click.option("--scale", type=click.IntRange(1, 4), default=2, show_default=True)
@click.option("--output", type=click.Path(path_type=Path), default=Path("demo"), show_default=True)
def demo(photo: Path | None, scale: int, output: Path) -> None:
    """Start everything, enlarge a photo, show before and after, stop everything."""
    from gateway.cli.demo import run_demo

    run(run_demo(photo, scale, output))


def configured(*, running: bool = True, **overrides: Any) -> Settings:
    """The settings, with logging set up by them; see `load`."""
    settings = load(running=running, **overrides)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(RedactingFormatter(secrets_of(settings)))
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler])
    for chatty in ("httpx", "botocore", "aiobotocore", "nats", "psycopg.pool"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    logging.getLogger("pyvips").setLevel(logging.CRITICAL)  # its errors come back as exceptions
    return settings


def runs(data: Path | None) -> bool:
    """Whether what running.json says of this folder is so: a killed system leaves it behind."""
    from gateway.embedded.folder import in_use

    return in_use(load(running=False, data=data).data)


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run `work` on uvloop; Ctrl-C ends it without a traceback."""
    try:
        uvloop.run(work)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except asyncio.CancelledError:
        raise SystemExit(130) from None
