"""`nereid clients add | list | remove`."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import click

from functions._kit.policy import SCOPES
from functions._kit.ports import Client
from functions._kit.secrets import check_client_id, check_secret, hash_secret, new_secret
from gateway.adapters.tables import ClientTable, open_database
from gateway.auth import api_key_lookup
from gateway.cli.main import DATA, configured, run, runs
from gateway.embedded import EmbeddedServers
from gateway.runtime import required
from gateway.settings import Settings

ORDINARY = frozenset(s for s in SCOPES if not s.startswith("system:") and s != "models:write")
"""What a client may do unless told otherwise."""


@click.group()
def clients() -> None:
    """The programs that may call Nereid; works while the system runs, and while it does not."""


@clients.command()
@click.argument("client_id")
@click.option(
    "--secret",
    help="Its secret, '-' to read it from stdin; generated and printed once unless given.",
)
@click.option("--scopes", help="Comma-separated; without it, all but system:* and models:write.")
@click.option(
    "--api-key",
    help="A key for X-API-Key, or '-' as above; generated and printed once unless given.",
)
@DATA
def add(
    client_id: str, secret: str | None, scopes: str | None, api_key: str | None, data: Path | None
) -> None:
    """Add a client.

    Other users of the machine can read the arguments of a command, but not its stdin: with '-'
    a secret is its next line.
    """
    secret, api_key = _given("--secret", secret), _given("--api-key", api_key)
    _check("CLIENT_ID", lambda: check_client_id(client_id))
    for option, given in (("--secret", secret), ("--api-key", api_key)):
        if given is not None:
            _check(option, partial(check_secret, given, client_id))
    run(_add(_settings(data), client_id, secret, _scopes(scopes), api_key))


@clients.command(name="list")
@DATA
def list_clients(data: Path | None) -> None:
    """Show the clients and their scopes."""
    run(_list(_settings(data)))


@clients.command()
@click.argument("client_id")
@DATA
def remove(client_id: str, data: Path | None) -> None:
    """Remove a client; running gateways forget it within ten seconds."""
    run(_remove(_settings(data), client_id))


def _settings(data: Path | None) -> Settings:
    return configured(running=runs(data), data=data)


def _given(option: str, value: str | None) -> str | None:
    """The value itself, or the next line of stdin for '-'."""
    if value != "-":
        return value
    line = sys.stdin.readline().rstrip("\r\n")
    if not line:
        raise click.BadParameter("stdin holds no further line", param_hint=option)
    return line


def _check(option: str, check: Callable[[], None]) -> None:
    try:
        check()
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=option) from error


def _scopes(text: str | None) -> frozenset[str]:
    if text is None:
        return ORDINARY
    scopes = frozenset(part.strip() for part in text.split(",") if part.strip())
    unknown = scopes - SCOPES
    if unknown or not scopes:
        raise click.BadParameter(
            f"unknown: {', '.join(sorted(unknown)) or 'none given'}; "
            f"there are: {', '.join(sorted(SCOPES))}",
            param_hint="--scopes",
        )
    return scopes


async def _add(
    settings: Settings,
    client_id: str,
    secret: str | None,
    scopes: frozenset[str],
    api_key: str | None,
) -> None:
    made_secret, made_key = secret or new_secret(), api_key or new_secret()
    async with _table(settings) as (table, token_secret):
        await table.add(
            Client(
                client_id=client_id,
                secret_hash=hash_secret(made_secret),
                scopes=scopes,
                api_key_lookup=api_key_lookup(token_secret, made_key),
                api_key_hash=hash_secret(made_key),
            )
        )
    click.echo(f"client_id     {client_id}")
    if secret is None:
        click.echo(f"client_secret {made_secret}")
    if api_key is None:
        click.echo(f"api_key       {made_key}")
    click.echo(f"scopes        {' '.join(sorted(scopes))}")


async def _list(settings: Settings) -> None:
    async with _table(settings) as (table, _):
        for client in await table.all():
            click.echo(f"{client.client_id:<24} {' '.join(sorted(client.scopes))}")


async def _remove(settings: Settings, client_id: str) -> None:
    async with _table(settings) as (table, _):
        if not await table.remove(client_id):
            raise click.ClickException(f"there is no client {client_id!r}")
    click.echo(f"removed {client_id}")


@asynccontextmanager
async def _table(settings: Settings) -> AsyncIterator[tuple[ClientTable, str]]:
    """The table, on the running system's database or on the embedded one, started for it."""
    if (url := settings.database_url) is not None:
        secret = required(settings, "token_secret")
        async with open_database(url, max_connections=1) as database:
            yield ClientTable(database), secret
        return
    async with EmbeddedServers(settings.data, want={"postgres"}) as servers:
        secret = settings.token_secret or servers.folder.secret("token")
        async with open_database(servers.postgres.url, max_connections=1) as database:
            yield ClientTable(database), secret
