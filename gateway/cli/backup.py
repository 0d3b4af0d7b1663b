"""`nereid backup`."""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import cast

import click

from functions._kit.errors import Conflict
from gateway.adapters.jetstream import connect
from gateway.asgi import VERSION
from gateway.backup.making import make
from gateway.backup.manifest import SECRETS
from gateway.cli.main import DATA, configured, run, runs
from gateway.embedded import EmbeddedServers, Name
from gateway.settings import Settings

PARTIAL = ".partial"
TAR = ".tar"


@click.command()
@click.argument("target", type=click.Path(path_type=Path))
@DATA
def backup(target: Path, data: Path | None) -> None:
    """Keep database, streams and secrets in TARGET: a new folder, or a file FILE.tar.

    Works while the system runs. Pictures and recordings lie in S3 and are not among it.
    """
    run(_backup(configured(running=runs(data), data=data), target))


async def _backup(settings: Settings, target: Path) -> None:
    with _new(target) as folder:
        async with servers(settings) as (nats_url, database_url):
            client = await connect(nats_url, name="nereid-backup", tls=settings.nats_tls)
            try:
                with _writing(target):
                    await make(
                        folder,
                        client=client,
                        database_url=database_url,
                        secrets=_secrets(settings.data),
                        version=VERSION,
                        say=click.echo,
                    )
            finally:
                await client.close()
    click.echo(f"backed up to {target}; the objects in S3 are yours to copy: docs/backup.md")


@asynccontextmanager
async def servers(settings: Settings) -> AsyncIterator[tuple[str, str]]:
    """The addresses of NATS and PostgreSQL; embedded ones that do not run are started for it."""
    given = {"nats": settings.nats_url, "postgres": settings.database_url}
    want = {cast("Name", name) for name, url in given.items() if url is None}
    if not want:
        yield str(settings.nats_url), str(settings.database_url)
        return
    async with EmbeddedServers(settings.data, want=want) as started:
        for notice in started.nats.notices if "nats" in want else ():
            click.echo(f"nats      {notice}", err=True)
        yield (
            settings.nats_url or started.nats.url,
            settings.database_url or started.postgres.url,
        )


def _secrets(data: Path) -> bytes | None:
    path = data / SECRETS
    return path.read_bytes() if path.is_file() else None


@contextmanager
def _new(target: Path) -> Iterator[Path]:
    """A folder to write into, which becomes `target` if all goes well, and is removed if not."""
    if target.exists():
        raise Conflict("target_exists", f"{target} is there already: name a new one")
    folder = target.with_name(target.name + PARTIAL)
    packed = target.with_name(target.name + PARTIAL + TAR)
    shutil.rmtree(folder, ignore_errors=True)
    try:
        with _writing(target):
            folder.mkdir(mode=0o700, parents=True)
        yield folder
        with _writing(target):
            if target.suffix == TAR:
                _pack(folder, packed)
                packed.rename(target)
            else:
                folder.rename(target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):
            packed.unlink()


def _pack(folder: Path, packed: Path) -> None:
    packed.touch(mode=0o600)
    with tarfile.open(packed, "w") as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, path.name)


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    """Tells of files that cannot be written; servers that are away are not the disk's fault."""
    try:
        yield
    except (ConnectionError, TimeoutError):
        raise
    except OSError as error:
        raise Conflict("backup_unwritable", f"{target} cannot be written: {error}") from error
