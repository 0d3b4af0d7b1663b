"""Backup and restore of the servers alone: order, ids, positions, and what is refused."""

from __future__ import annotations

import asyncio
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result
from nats.aio.client import Client
from nats.js.api import ConsumerConfig

from functions._kit.errors import Conflict
from functions._kit.messages import new_id, now
from functions.tasks.contracts import (
    Job,
    Status,
    Step,
    Task,
    TaskEvent,
    event_subject,
    final_id,
    job_subject,
)
from gateway.adapters.jetstream import JetStream, StreamLimits, connect, ensure_streams
from gateway.adapters.keyvalue import ensure_buckets
from gateway.adapters.tables import TaskTable, open_database
from gateway.backup.manifest import BackupError, read_manifest
from gateway.backup.streams import matches
from gateway.cli.backup import _new, _writing
from gateway.cli.main import main
from gateway.embedded import EmbeddedServers

RECORDER = "tasks_record"
FUNCTION = "media.upscale"


def task() -> Task:
    return Task(task_id=new_id(), client_id="me", workflow="photo", priority=5, created_at=now())


def nereid(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, env={"NEREID_CONFIG": None})


async def tell(stream: JetStream, of: Task, status: Status) -> TaskEvent:
    event_id = final_id(of.task_id) if status.final else new_id()
    event = TaskEvent(event_id=event_id, task=of, status=status, at=now())
    await stream.publish(event_subject(of.task_id), event, message_id=event_id)
    return event


async def submit(stream: JetStream, of: Task) -> TaskEvent:
    job = Job(task=of, steps=(Step(function=FUNCTION, share=1.0),))
    await stream.publish(job_subject(FUNCTION, 5), job, message_id=of.task_id)
    return await tell(stream, of, Status.QUEUED)


async def pull(client: Client, count: int) -> list[TaskEvent]:
    """What the recorder of EVENTS is given next."""
    js = client.jetstream()
    pulled = await js.pull_subscribe_bind(RECORDER, "EVENTS")
    messages = await pulled.fetch(count, timeout=60)
    for message in messages:
        await message.ack_sync()
    return [msgspec.json.decode(message.data, type=TaskEvent) for message in messages]


class Tasks:
    """Three tasks of a system that is backed up: ended, told but not recorded, waiting."""

    def __init__(self) -> None:
        self.ended, self.unrecorded, self.waiting = task(), task(), task()

    async def make(self, client: Client, database_url: str) -> None:
        await ensure_streams(client, StreamLimits())
        await ensure_buckets(client, 1)
        await client.jetstream().add_consumer(
            "EVENTS", ConsumerConfig(durable_name=RECORDER, filter_subject="events.task.*")
        )
        stream = JetStream(client)
        events = [await tell(stream, self.ended, Status.QUEUED)]
        events.append(await tell(stream, self.ended, Status.COMPLETED))
        events.append(await submit(stream, self.waiting))
        async with open_database(database_url) as database:
            await TaskTable(database).record(events)
            assert len(await pull(client, len(events))) == len(events)
        await tell(stream, self.unrecorded, Status.COMPLETED)
        await client.jetstream().publish(
            "$KV.cameras.yard", b"rules", headers={"Nats-Expected-Last-Subject-Sequence": "0"}
        )

    async def check(self, client: Client, database_url: str) -> None:
        """All is there, ids go on deduplicating, and the recorder is given what it lacks."""
        stream = JetStream(client)
        async with open_database(database_url) as database:
            table = TaskTable(database)
            rows = {t.task_id: await table.get(t.task_id) for t in (self.ended, self.waiting)}
            assert [row.status for row in rows.values() if row] == ["completed", "queued"]
            assert await table.get(self.unrecorded.task_id) is None
        (left,) = await pull(client, 1)
        assert left.task.task_id == self.unrecorded.task_id
        job = await stream.oldest("jobs.>")
        assert job is not None
        assert msgspec.json.decode(job.data, type=Job).task == self.waiting
        again = await stream.publish_bytes(job.subject, b"", message_id=self.waiting.task_id)
        assert again.duplicate
        second = TaskEvent(event_id="x", task=self.ended, status=Status.FAILED, at=now())
        known = final_id(self.ended.task_id)
        told = await stream.publish(event_subject(self.ended.task_id), second, message_id=known)
        assert told.duplicate
        rules = await client.jetstream().get_last_msg("KV_cameras", "$KV.cameras.yard")
        assert rules.data == b"rules"


async def with_servers(data: Path, use: Callable[[Client, str], Any]) -> None:
    async with EmbeddedServers(data, want={"nats", "postgres"}) as servers:
        client = await connect(servers.nats.url, name="test")
        try:
            await use(client, servers.postgres.url)
        finally:
            await client.close()


@pytest.fixture(scope="module")
def tasks() -> Tasks:
    return Tasks()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, tasks: Tasks) -> Path:
    """The data folder of a system that was stopped."""
    folder = tmp_path_factory.mktemp("backed") / "data"
    asyncio.run(with_servers(folder, tasks.make))
    return folder


@pytest.fixture(scope="module")
def backup(data: Path) -> Path:
    """A backup of it, as a file."""
    target = data.parent / "backup.tar"
    done = nereid("backup", str(target), "--data", str(data))
    assert done.exit_code == 0, done.output
    assert "backed up to" in done.output
    assert "docs/backup.md" in done.output
    assert target.stat().st_mode & 0o077 == 0
    assert not list(target.parent.glob("*.partial*"))
    return target


@pytest.fixture
def unpacked(backup: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "unpacked"
    with tarfile.open(backup) as tar:
        tar.extractall(folder, filter="data")
    return folder


def test_what_was_backed_up_is_restored_into_a_new_folder(
    tasks: Tasks, data: Path, backup: Path, tmp_path: Path
) -> None:
    fresh = tmp_path / "fresh"
    done = nereid("restore", str(backup), "--data", str(fresh))
    assert done.exit_code == 0, done.output
    assert "2 tasks" in done.output
    secrets = (data / "credentials.json").read_text()
    assert (fresh / "credentials.json").read_text() == secrets
    asyncio.run(with_servers(fresh, tasks.check))

    again = nereid("restore", str(backup), "--data", str(fresh))
    assert again.exit_code == 1
    assert "has nats, postgres, credentials.json" in again.output
    assert "--overwrite" in again.output
    told = nereid("restore", str(backup), "--data", str(fresh), "--overwrite")
    assert told.exit_code == 0, told.output
    (aside,) = fresh.glob("replaced-*")
    assert (aside / "postgres" / "PG_VERSION").is_file()
    asyncio.run(with_servers(fresh, tasks.check))


async def test_servers_of_ones_own_are_backed_up_and_restored_into(
    tasks: Tasks, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "backup"

    async def command(servers: EmbeddedServers, *arguments: str) -> Result:
        monkeypatch.setenv("NEREID_NATS_URL", servers.nats.url)
        monkeypatch.setenv("NEREID_DATABASE_URL", servers.postgres.url)
        nobody = str(tmp_path / "nobody")
        return await asyncio.to_thread(nereid, *arguments, "--data", nobody)

    async with EmbeddedServers(data, want={"nats", "postgres"}) as servers:
        done = await command(servers, "backup", str(target))
        assert done.exit_code == 0, done.output
        full = await command(servers, "restore", str(target))
        assert full.exit_code == 1
        assert "there is something already (2 tasks, messages in JOBS" in full.output
    assert "credentials.json" not in read_manifest(target).parts
    async with EmbeddedServers(tmp_path / "other", want={"nats", "postgres"}) as servers:
        done = await command(servers, "restore", str(target))
        assert done.exit_code == 0, done.output
        client = await connect(servers.nats.url, name="test")
        await tasks.check(client, servers.postgres.url)
        await client.close()


def cut(folder: Path) -> None:
    path = folder / "EVENTS.messages"
    path.write_bytes(path.read_bytes()[:-5])


def change(folder: Path) -> None:
    path = folder / "database.dump"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def lose(folder: Path) -> None:
    (folder / "JOBS.messages").unlink()


def manifest(**changes: object) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / "manifest.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return damage


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (cut, "EVENTS.messages has"),
        (change, "database.dump is not what was written (sha256)"),
        (lose, "JOBS.messages is missing"),
        (lambda folder: (folder / "manifest.json").unlink(), "it has no manifest.json"),
        (manifest(parts=5), "manifest.json: Expected `object`"),
        (manifest(format=2, nereid="9.0"), "was made by Nereid 9.0, in format 2"),
        (manifest(migrations=["9999_future.sql"]), "does not know (9999_future.sql)"),
    ],
    ids=["cut", "changed", "lost", "no manifest", "manifest", "format", "migrations"],
)
def test_what_is_not_a_whole_backup_of_ours_is_refused_before_anything_is_touched(
    unpacked: Path, tmp_path: Path, damage: Callable[[Path], None], said: str
) -> None:
    damage(unpacked)
    done = nereid("restore", str(unpacked), "--data", str(tmp_path / "fresh"))
    assert done.exit_code == 1
    assert said in done.output
    assert not (tmp_path / "fresh").exists()


def test_a_file_that_breaks_off_is_refused(backup: Path, tmp_path: Path) -> None:
    short = tmp_path / "short.tar"
    content = backup.read_bytes()
    for size in (len(content) // 2, 100, 0):
        short.write_bytes(content[:size])
        done = nereid("restore", str(short), "--data", str(tmp_path / "fresh"))
        assert done.exit_code == 1
        assert not (tmp_path / "fresh").exists()


async def test_nothing_is_restored_into_a_folder_in_use_or_backed_up_over_another(
    backup: Path, tmp_path: Path
) -> None:
    async with EmbeddedServers(tmp_path / "data", want={"nats"}):
        done = await asyncio.to_thread(
            nereid, "restore", str(backup), "--data", str(tmp_path / "data"), "--overwrite"
        )
    assert done.exit_code == 1
    assert "in use" in done.output
    over = await asyncio.to_thread(nereid, "backup", str(backup), "--data", str(tmp_path / "data"))
    assert over.exit_code == 1
    assert "is there already" in over.output


def test_a_folder_without_a_manifest_is_no_backup(tmp_path: Path) -> None:
    with pytest.raises(BackupError, match="is no backup"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("subject", "pattern", "expected"),
    [
        ("events.task.a", "events.task.*", True),
        ("events.task.a.b", "events.task.*", False),
        ("events.alert.a", "events.task.*", False),
        ("events.alert.a.image", "events.alert.>", True),
        ("events.alert", "events.alert.>", False),
        ("events.alert.a", ">", True),
    ],
)
def test_subjects_match_as_nats_has_it(subject: str, pattern: str, *, expected: bool) -> None:
    assert matches(subject, pattern) is expected


def test_clients_are_listed_of_a_folder_that_a_killed_system_left(data: Path) -> None:
    gone = {"database_url": "postgresql://nereid:x@127.0.0.1:1/nereid", "token_secret": "t" * 40}
    running = data / "running.json"
    running.write_text(json.dumps(gone))
    done = nereid("clients", "list", "--data", str(data))
    running.unlink()
    assert done.exit_code == 0, done.output


def test_a_backup_that_fails_leaves_nothing_and_says_what_was_at_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "backup.tar"

    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as broken:
        broken.setattr(tarfile.TarFile, "add", full)
        with pytest.raises(Conflict, match="No space left") as caught, _new(target) as folder:
            (folder / "database.dump").write_bytes(b"x")
    assert caught.value.code == "backup_unwritable"
    assert list(tmp_path.iterdir()) == []

    with pytest.raises(ConnectionRefusedError), _new(target), _writing(target):
        raise ConnectionRefusedError
    assert list(tmp_path.iterdir()) == []
