"""Makes a backup of a system that goes on working.

What is read in which order decides what a restore can lose or double:

1. How far the recorders are in EVENTS. Facts up to there are in the database.
2. The database. It is never newer than the streams: a row may not promise a job that lies nowhere,
   and what the streams know better is replayed into it, which changes nothing twice.
3. JOBS and FRAMES, by ascending sequence to their live ends. A job's successor is published before
   the job is acknowledged, and its last fact before that, so of every task that was accepted
   before 3 the job is found here or its last fact in 4.
4. EVENTS. A job of 3 that ended meanwhile is recognised by its last fact, and does not run again.
   Facts of tasks that were begun after 2 and have neither an end here nor a job in 3 are left out:
   those tasks were accepted after the moment of this backup.
5. DEAD and the buckets.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
from nats.aio.client import Client
from nats.js import JetStreamContext

from functions._kit.messages import NO_JSON, Message, now
from functions.tasks.contracts import Status
from gateway.adapters.reaching import translated
from gateway.adapters.tables.contents import applied_migrations, row_counts
from gateway.backup.database import dump
from gateway.backup.manifest import (
    DATABASE,
    FORMAT,
    MANIFEST,
    SECRETS,
    Manifest,
    Part,
    part_of,
)
from gateway.backup.messages import MessageFile, Stored
from gateway.backup.streams import (
    FACTS,
    QUEUES,
    TIMEOUT_S,
    kept_streams,
    last_sequence,
    positions,
    read,
)

TASK_EVENTS = "events.task."
Say = Callable[[str], None]


class _Named(Message, frozen=True, kw_only=True):
    task_id: str


class _OfTask(Message, frozen=True, kw_only=True):
    """What is asked of a job or an event."""

    task: _Named
    status: Status | None = None


_decode = msgspec.json.Decoder(_OfTask).decode


async def make(
    folder: Path,
    *,
    client: Client,
    database_url: str,
    secrets: bytes | None,
    version: str,
    say: Say,
) -> Manifest:
    """Write a backup into `folder`, which is new. Raises `BackupError` and `Unavailable`."""
    js = client.jetstream(timeout=TIMEOUT_S)
    parts: dict[str, Part] = {}
    with translated():
        before = await positions(js)
    migrations, rows = await applied_migrations(database_url), await row_counts(database_url)
    await dump(database_url, folder / DATABASE)
    parts[DATABASE] = part_of(folder / DATABASE, sum(rows.values()))
    say(f"database  {', '.join(f'{count} {name}' for name, count in sorted(rows.items()))}")
    waiting: set[str] = set()
    with translated():
        begun = await last_sequence(js, FACTS)
        for name in kept_streams():
            path = folder / f"{name}.messages"
            with MessageFile(path) as file:
                if name in QUEUES:
                    async for message in read(js, name):
                        file.write(message)
                        waiting |= {task for task, _ in _task(message)}
                elif name == FACTS:
                    await _copy_facts(js, file, begun, waiting)
                else:
                    async for message in read(js, name, end=await last_sequence(js, name)):
                        file.write(message)
            parts[path.name] = part_of(path, file.count)
            say(f"{name:<16} {file.count} messages")
    if secrets is not None:
        (folder / SECRETS).write_bytes(secrets)
        parts[SECRETS] = part_of(folder / SECRETS, 1)
    manifest = Manifest(
        format=FORMAT,
        nereid=version,
        made_at=now(),
        migrations=migrations,
        rows=rows,
        parts=parts,
        positions=before,
    )
    (folder / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=1))
    return manifest


async def _copy_facts(
    js: JetStreamContext, file: MessageFile, begun: int, waiting: set[str]
) -> None:
    """All facts, but for those of tasks that this backup came too early for."""
    late: list[Stored] = []
    fresh: set[str] = set()
    async for message in read(js, FACTS, end=await last_sequence(js, FACTS)):
        if message.sequence <= begun:
            file.write(message)
            continue
        late.append(message)
        for task, status in _task(message):
            if status is Status.QUEUED:
                fresh.add(task)
            elif status is not None and status.final:
                fresh.discard(task)
                waiting.add(task)
    left_out = fresh - waiting
    for message in late:
        if not any(task in left_out for task, _ in _task(message)):
            file.write(message)


def _task(message: Stored) -> list[tuple[str, Status | None]]:
    """The task that a job or an event is of, if it is of one."""
    if not message.subject.startswith(("jobs.", TASK_EVENTS)):
        return []
    try:
        found = _decode(message.data)
    except NO_JSON:
        return []
    return [(found.task.task_id, found.status)]
