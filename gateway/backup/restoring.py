"""Restores a backup: the database first, then the streams, with nobody at work.

Recorders begin where the backup's database ends: what they have yet to record is replayed, and no
webhook of what they had recorded is sent again. Ids go on deduplicating: messages keep them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from nats.aio.client import Client

from functions._kit.errors import Conflict
from gateway.adapters.jetstream import StreamLimits, ensure_streams
from gateway.adapters.keyvalue import ensure_buckets
from gateway.adapters.reaching import translated
from gateway.adapters.tables.contents import known_migrations, row_counts
from gateway.backup.database import load
from gateway.backup.manifest import DATABASE, BackupError, Manifest
from gateway.backup.messages import Stored, read_messages
from gateway.backup.streams import (
    FACTS,
    TIMEOUT_S,
    advance,
    kept_streams,
    last_sequence,
    matches,
    write,
)

Say = Callable[[str], None]
SUFFIX = ".messages"


def check_migrations(manifest: Manifest) -> None:
    """Raise `BackupError` for a database that only a newer Nereid can read."""
    unknown = sorted(set(manifest.migrations) - set(known_migrations()))
    if unknown:
        raise BackupError(
            "backup_newer",
            f"the backup's database was made by Nereid {manifest.nereid} and has what this version "
            f"does not know ({', '.join(unknown)}): restore it with that version or a newer one",
        )


async def restore(
    folder: Path,
    manifest: Manifest,
    *,
    client: Client,
    database_url: str,
    limits: StreamLimits,
    overwrite: bool,
    say: Say,
) -> None:
    """Bring it into servers that hold nothing, or, with `overwrite`, instead of what they hold.

    Raises `Conflict` (`not_empty`), `BackupError`, `Unavailable`.
    """
    js = client.jetstream(timeout=TIMEOUT_S)
    with translated():
        held = [name for name in kept_streams() if await last_sequence(js, name)]
    rows = await row_counts(database_url)
    if not overwrite:
        _check_empty(held, rows)
    with translated():
        for name in held:
            await js.delete_stream(name)
    await load(database_url, folder / DATABASE, overwrite=bool(rows))
    say(f"database  {', '.join(f'{n} {name}' for name, n in sorted(manifest.rows.items()))}")
    with translated():
        await ensure_streams(client, limits)
        await ensure_buckets(client, limits.replicas)
    recorded = dict.fromkeys((position.name for position in manifest.positions), 0)
    for name in manifest.parts:
        if name.endswith(SUFFIX):
            stream = name.removesuffix(SUFFIX)
            kept = 0
            async for message in write(js, read_messages(folder / name)):
                kept += 1
                if stream == FACTS:
                    recorded.update(_done(message, manifest, recorded))
            say(f"{stream:<16} {kept} messages")
    for position in manifest.positions:
        await advance(client, position, recorded[position.name])


def _check_empty(held: Sequence[str], rows: Mapping[str, int]) -> None:
    full = [f"{count} {name}" for name, count in rows.items() if count]
    full += [f"messages in {name}" for name in held]
    if full:
        raise Conflict(
            "not_empty",
            f"there is something already ({', '.join(full)}): restore into another place, or say "
            "--overwrite, which removes it",
        )


def _done(message: Stored, manifest: Manifest, recorded: Mapping[str, int]) -> dict[str, int]:
    """The recorders that had this fact in the backup's database, each with one more."""
    return {
        position.name: recorded[position.name] + 1
        for position in manifest.positions
        if message.sequence <= position.sequence and matches(message.subject, position.subject)
    }
