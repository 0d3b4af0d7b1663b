"""`nereid restore`."""

from __future__ import annotations

import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from functions._kit.errors import Conflict
from functions._kit.messages import now
from gateway.adapters.jetstream import StreamLimits, connect
from gateway.backup.manifest import MANIFEST, SECRETS, BackupError, Manifest, read_manifest
from gateway.backup.restoring import check_migrations
from gateway.backup.restoring import restore as restore_into
from gateway.cli.backup import servers
from gateway.cli.main import DATA, configured, run
from gateway.embedded import DataFolder
from gateway.settings import RUNNING, Settings

REPLACED = ("nats", "postgres", SECRETS, "streams.json")
LEFT_BEHIND = (RUNNING, "loading.json")


@click.command()
@click.argument("source", type=click.Path(path_type=Path, exists=True))
@click.option("--overwrite", is_flag=True, help="Restore over what is there; it is set aside.")
@DATA
def restore(source: Path, data: Path | None, *, overwrite: bool) -> None:
    """Bring back what `nereid backup` kept in SOURCE, into a new data folder.

    Nothing may run on it. Servers that the settings name are restored into instead.
    """
    run(_restore(configured(running=False, data=data), source, overwrite=overwrite))


async def _restore(settings: Settings, source: Path, *, overwrite: bool) -> None:
    with _unpacked(source) as folder:
        manifest = read_manifest(folder)
        check_migrations(manifest)
        click.echo(f"{source} was made by Nereid {manifest.nereid} at {manifest.made_at:%F %T} UTC")
        embedded = settings.nats_url is None or settings.database_url is None
        if embedded:
            await _prepare(settings, folder, manifest, overwrite=overwrite)
        async with servers(settings) as (nats_url, database_url):
            client = await connect(nats_url, name="nereid-restore", tls=settings.nats_tls)
            try:
                await restore_into(
                    folder,
                    manifest,
                    client=client,
                    database_url=database_url,
                    limits=StreamLimits(
                        replicas=settings.stream_replicas,
                        jobs_max_messages=settings.jobs_max_messages,
                        frames_max_messages=settings.frames_max_messages,
                    ),
                    overwrite=overwrite,
                    say=click.echo,
                )
            finally:
                await client.close()
    where = settings.data if embedded else "the servers that the settings name"
    click.echo(f"restored into {where}; the objects in S3 are yours to bring back: docs/backup.md")


async def _prepare(
    settings: Settings, folder: Path, manifest: Manifest, *, overwrite: bool
) -> None:
    """Give the data folder the backup's secrets, once nothing of it is in use or in the way."""
    data = DataFolder(settings.data)
    await data.open()
    try:
        there = [name for name in REPLACED if (data.path / name).exists()]
        if there and not overwrite:
            raise Conflict(
                "not_empty",
                f"the data folder {data.path} has {', '.join(there)} already: name another one "
                "with --data, or say --overwrite, which sets them aside",
            )
        if there:
            aside = data.folder(f"replaced-{now():%Y%m%dT%H%M%S}")
            for name in there:
                (data.path / name).rename(aside / name)
            click.echo(f"what was there lies in {aside}")
        for name in LEFT_BEHIND:
            (data.path / name).unlink(missing_ok=True)
        if SECRETS in manifest.parts:
            data.write(SECRETS, (folder / SECRETS).read_text())
    finally:
        data.close()


@contextmanager
def _unpacked(source: Path) -> Iterator[Path]:
    """The backup as a folder."""
    if source.is_dir():
        yield source
        return
    with tempfile.TemporaryDirectory(prefix=".nereid-restore-", dir=source.parent) as folder:
        try:
            with tarfile.open(source, "r:") as tar:
                tar.extractall(folder, filter="data")
        except (tarfile.TarError, EOFError) as error:
            raise BackupError(
                "backup_damaged", f"{source} is no whole backup ({error}): use another one"
            ) from error
        except OSError as error:
            raise BackupError(
                "backup_unreadable", f"{source} cannot be unpacked beside itself: {error}"
            ) from error
        if not (Path(folder) / MANIFEST).is_file():
            raise BackupError("backup_damaged", f"{source} is no backup: it has no {MANIFEST}")
        yield Path(folder)
