"""PostgreSQL that is killed, or whose files are damaged."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from functions._kit.errors import Conflict, Unavailable
from functions._kit.messages import new_id, now
from functions.tasks.contracts import Status, Task, TaskEvent
from gateway.adapters.tables import TaskTable, open_database
from gateway.embedded import DataFolder, EmbeddedServers, StartError
from gateway.embedded.postgres import _why
from tests.recovery.killing import kill_all

BATCHES, BATCH, SLOW = 30, 50, 12
# A commit that is at work until this very server has died.
SLOW_COMMIT = """
CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF pg_postmaster_start_time() = '{started}' THEN PERFORM pg_sleep(600); END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER dawdle AFTER INSERT ON tasks DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (new.workflow = 'batch-{slow}') EXECUTE FUNCTION dawdle();
"""
AT_WORK = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"


def batch(number: int) -> list[TaskEvent]:
    tasks = [
        Task(
            task_id=new_id(),
            client_id="me",
            workflow=f"batch-{number}",
            priority=5,
            created_at=now(),
        )
        for _ in range(BATCH)
    ]
    return [
        TaskEvent(event_id=new_id(), task=task, status=status, at=now())
        for task in tasks
        for status in (Status.QUEUED, Status.PROCESSING)
    ]


async def test_facts_are_all_there_once_after_a_kill_in_the_middle_of_a_commit(
    tmp_path: Path,
) -> None:
    """A recorder gets a batch again until its commit was told, as JetStream sends it again."""
    batches = [batch(number) for number in range(BATCHES)]
    waiting = iter(batches)
    failed: list[list[TaskEvent]] = []

    async def record(table: TaskTable) -> None:
        for events in waiting:
            while True:
                try:
                    await table.record(events)
                    break
                except Unavailable:
                    failed.append(events)
                    await asyncio.sleep(0.05)

    async with EmbeddedServers(tmp_path, want={"postgres"}) as servers:
        supervising = asyncio.create_task(servers.supervise(lambda _, __: None))
        async with open_database(servers.postgres.url) as database:
            (row,) = await database.fetch("SELECT pg_postmaster_start_time()::text AS at")
            await database.fetch(SLOW_COMMIT.format(started=row["at"], slow=SLOW))
            recorders = asyncio.gather(*(record(TaskTable(database)) for _ in range(4)))
            async with asyncio.timeout(60):
                while not await database.fetch(AT_WORK):
                    await asyncio.sleep(0.01)
            kill_all(servers.postgres.process.pid)
            await recorders
            rows = await database.fetch("SELECT task_id, status FROM tasks")
        supervising.cancel()
        await asyncio.gather(supervising, return_exceptions=True)
    assert batches[SLOW] in failed
    sent = {event.task.task_id for events in batches for event in events}
    assert len(rows) == len(sent)
    assert {str(row["task_id"]) for row in rows} == sent
    assert {row["status"] for row in rows} == {"processing"}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder of a PostgreSQL that has run."""
    data = tmp_path_factory.mktemp("cluster")

    async def make() -> None:
        async with EmbeddedServers(data, want={"postgres"}):
            pass

    asyncio.run(make())
    return data


def remove(name: str) -> Callable[[Path], None]:
    return lambda tables: (tables / name).unlink()


def write(name: str, content: bytes) -> Callable[[Path], None]:
    def damage(tables: Path) -> None:
        (tables / name).write_bytes(content)

    return damage


def empty_the_log(tables: Path) -> None:
    for segment in (tables / "pg_wal").glob("0*"):
        segment.unlink()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (remove("PG_VERSION"), "is damaged: PG_VERSION missing"),
        (remove("global/pg_control"), "is damaged: global/pg_control missing"),
        (write("PG_VERSION", b"17\n"), "is of version '17' .* and this is 18"),
        (write("global/pg_control", b"\0" * 8192), "cannot read its folder .*, which is damaged"),
        (empty_the_log, "cannot read its folder .*, which is damaged"),
    ],
    ids=["no version", "no control", "version", "control", "log"],
)
async def test_damaged_tables_are_one_sentence_with_the_way_out(
    tmp_path: Path, cluster: Path, damage: Callable[[Path], None], said: str
) -> None:
    data = tmp_path / "data"
    await asyncio.to_thread(shutil.copytree, cluster, data)
    damage(data / "postgres")
    with pytest.raises(StartError, match=said) as caught:
        async with EmbeddedServers(data, want={"postgres"}):
            pytest.fail("started on damaged tables")
    sentence = caught.value.message.splitlines()[0]
    assert str(data / "postgres") in sentence
    assert "restore" in sentence


async def test_a_folder_that_cannot_be_written_to_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(Conflict, match=r"cannot be written to: .* Not a directory") as caught:
        await DataFolder(tmp_path / "file" / "data").open()
    assert caught.value.code == "data_unusable"


def test_a_full_disk_is_not_told_as_damage() -> None:
    said = _why(
        'PANIC:  could not write to file "pg_wal/xlogtemp.9": No space left on device',
        Path("/data/postgres"),
    )
    assert said == "The disk of /data/postgres is full: give it space, and start again."
