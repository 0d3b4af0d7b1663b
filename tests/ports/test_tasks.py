"""One suite over the fake and over a real PostgreSQL: what `TaskStore` promises."""

from __future__ import annotations

import asyncio
import itertools
import random
import select
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import msgspec
import psycopg
import pytest
import pytest_asyncio

from functions._kit.errors import Unavailable
from functions._kit.fakes import FakeTaskStore
from functions._kit.messages import new_id
from functions._kit.ports import TaskStore
from functions.tasks.contracts import (
    KeptJob,
    Status,
    Task,
    TaskError,
    TaskEvent,
    TaskRow,
    final_id,
)
from gateway.adapters.tables import TaskTable, open_database
from gateway.adapters.tables import database as database_module
from tests.ports.conftest import Gone

BEGAN = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)
STEPS = (
    (Status.QUEUED, 0.0),
    (Status.PROCESSING, 0.3),
    (Status.PROCESSING, 0.7),
    (Status.COMPLETED, 1.0),
    (Status.CANCELLED, 0.7),
)


@dataclass(frozen=True, slots=True)
class Table:
    """The store, and how to make its claims and last words older."""

    store: TaskStore
    age: Callable[[timedelta], Awaitable[None]]


@pytest.fixture(params=["fake", "postgres"])
def address(request: pytest.FixtureRequest) -> str | None:
    """Where the real database is; None for the fake."""
    return str(request.getfixturevalue("database_url")) if request.param == "postgres" else None


@pytest_asyncio.fixture
async def table(address: str | None) -> AsyncIterator[Table]:
    if address is None:
        fake = FakeTaskStore()

        async def age_fake(by: timedelta) -> None:
            clock = fake.clock
            fake.clock = lambda: clock() + by

        yield Table(fake, age_fake)
        return
    async with open_database(address) as database:

        async def age_rows(by: timedelta) -> None:
            await database.fetch("UPDATE idempotency_keys SET created_at = created_at - %s", [by])
            await database.fetch("UPDATE tasks SET heard_at = heard_at - %s", [by])

        yield Table(TaskTable(database), age_rows)


@pytest.fixture
def store(table: Table) -> TaskStore:
    return table.store


def task(client_id: str = "alice", **facts: object) -> Task:
    fields = {"workflow": "nas-photo-processing", "priority": 5, "created_at": BEGAN} | facts
    return Task(task_id=new_id(), client_id=client_id, **fields)  # type: ignore[arg-type]


def event(of: Task, status: Status, second: int = 0, **facts: object) -> TaskEvent:
    event_id = final_id(of.task_id) if status.final else new_id()
    at = BEGAN + timedelta(seconds=second)
    return TaskEvent(event_id=event_id, task=of, status=status, at=at, **facts)  # type: ignore[arg-type]


async def recorded(store: TaskStore, *events: TaskEvent) -> TaskRow:
    """The row of the only task of `events`, which are recorded one by one."""
    for one in events:
        await store.record([one])
    return await row_of(store, events[0].task)


async def row_of(store: TaskStore, of: Task) -> TaskRow:
    row = await store.get(of.task_id)
    assert row is not None
    return row


def anonymous(row: TaskRow) -> TaskRow:
    """The row without what differs between two tasks that lived the same life."""
    of = msgspec.structs.replace(row.task, task_id="")
    return msgspec.structs.replace(row, task=of, final_event_id=None)


async def test_a_task_is_kept_with_all_its_facts(store: TaskStore) -> None:
    of = task("bob", workflow="professional-photo-processing", callback_url="https://x.test/a?b=ü")
    done = event(
        of,
        Status.COMPLETED,
        9,
        progress=0.99,
        attempts=2,
        result={"file_path": "results/ä \"'.png", "thumbnails": [{"width": 1}], "none": None},
    )
    started = event(of, Status.PROCESSING, 2, attempts=1)
    row = await recorded(store, event(of, Status.QUEUED), started, done)
    assert row == TaskRow(
        task=of,
        status=Status.COMPLETED,
        progress=1.0,
        attempts=2,
        started_at=started.at,
        finished_at=done.at,
        result=done.result,
        final_event_id=done.event_id,
    )


async def test_a_failure_is_kept_with_its_reason(store: TaskStore) -> None:
    error = TaskError(code="corrupt_picture", message='it\'s "damaged" \\ ünd \u2028 cut')
    row = await recorded(store, event(task(), Status.FAILED, 1, error=error, progress=0.25))
    assert (row.status, row.error, row.progress) == (Status.FAILED, error, 0.25)
    assert row.started_at is None


async def test_text_that_postgresql_cannot_hold_stops_no_recorder(store: TaskStore) -> None:
    of = task(callback_url="https://x.test/\0")
    error = TaskError(code="odd", message="a NUL \0, and \\u0000 spelt out")
    await store.record([event(of, Status.FAILED, error=error, result={"\0": "\0"})])
    row = await row_of(store, of)
    assert row.error is not None
    assert row.error.message.endswith(", and \\u0000 spelt out")


async def test_an_unknown_task_is_none(store: TaskStore) -> None:
    assert await store.get(new_id()) is None


async def test_nothing_to_record_is_no_error(store: TaskStore) -> None:
    await store.record([])
    assert await store.finished_by([]) == []


@pytest.mark.parametrize("apart", [True, False], ids=["one by one", "in one batch"])
async def test_no_order_of_events_moves_a_task_back(store: TaskStore, *, apart: bool) -> None:
    """All 120 orders at once: each is a task of its own."""
    lives: list[list[TaskEvent]] = []
    for order in itertools.permutations(range(len(STEPS))):
        of = task()
        lives.append(
            [
                event(of, STEPS[n][0], second, progress=STEPS[n][1], attempts=n)
                for second, n in enumerate(order)
            ]
        )
    seen: dict[str, list[TaskRow]] = {life[0].task.task_id: [] for life in lives}
    if apart:
        for turn in zip(*lives, strict=True):
            await store.record(turn)
            for one in turn:
                seen[one.task.task_id].append(await row_of(store, one.task))
    else:
        await store.record([one for life in lives for one in life])
    for life in lives:
        row = await row_of(store, life[0].task)
        first_final = next(one for one in life if one.status.final)
        before = life[: life.index(first_final)]
        started = [one.at for one in before if one.status is Status.PROCESSING]
        assert row.status is first_final.status
        assert row.finished_at == first_final.at
        assert row.started_at == (started[0] if started else None)
        expected = max([first_final.progress, *(one.progress for one in before)])
        assert row.progress == pytest.approx(expected, abs=1e-6)
        rows = seen[row.task.task_id]
        assert rows == sorted(rows, key=lambda r: (r.status.rank, r.progress, r.attempts))


async def test_a_batch_amounts_to_its_events_one_by_one(store: TaskStore) -> None:
    choose = random.Random(7)
    for _ in range(40):
        batched, single = task(), task()
        drawn = [(choose.choice(STEPS), choose.randrange(3)) for _ in range(choose.randint(1, 7))]
        lives = [
            [
                event(of, status, second, progress=progress, attempts=attempts)
                for second, ((status, progress), attempts) in enumerate(drawn)
            ]
            for of in (batched, single)
        ]
        cut = choose.randint(0, len(drawn))
        await store.record(lives[0][:cut])
        await store.record(lives[0][cut:])
        row = await recorded(store, *lives[1])
        assert anonymous(await row_of(store, batched)) == anonymous(row), drawn


async def test_repeated_events_change_nothing(store: TaskStore) -> None:
    of = task()
    life = [
        event(of, status, second, progress=progress, attempts=1 + second)
        for second, (status, progress) in enumerate(STEPS[:4])
    ]
    for upto in range(1, len(life) + 1):
        row = await recorded(store, *life[:upto])
        assert await recorded(store, *life[:upto]) == row
        await store.record(life[:upto])
        assert await row_of(store, of) == row


async def test_progress_never_falls_and_attempts_are_kept(store: TaskStore) -> None:
    of = task()
    row = await recorded(
        store,
        event(of, Status.PROCESSING, 1, progress=0.7, attempts=1),
        event(of, Status.PROCESSING, 5, progress=0.1, attempts=2),
        event(of, Status.PROCESSING, 3, progress=0.2, attempts=1),
    )
    assert (round(row.progress, 6), row.attempts) == (0.7, 2)
    assert row.started_at == BEGAN + timedelta(seconds=1)


async def test_a_batch_of_many_tasks_is_written_at_once(store: TaskStore) -> None:
    tasks = [task() for _ in range(40)]
    events = [event(of, Status.QUEUED) for of in tasks]
    events += [event(of, Status.PROCESSING, 1, progress=0.5) for of in tasks[:30]]
    events += [event(of, Status.COMPLETED, 2) for of in tasks[:20]]
    events += [event(of, Status.FAILED, 2) for of in tasks[20:30]]
    assert len(events) == 100
    await store.record(events)
    states = [(await row_of(store, of)).status.value for of in tasks]
    assert states == ["completed"] * 20 + ["failed"] * 10 + ["queued"] * 10


async def test_recorders_side_by_side_neither_wait_for_ever_nor_lose(store: TaskStore) -> None:
    tasks = [task() for _ in range(30)]
    await store.record([event(of, Status.QUEUED) for of in tasks])

    async def recorder(seed: int) -> None:
        shuffle = random.Random(seed)
        for step in range(10):
            batch = [event(of, Status.PROCESSING, step, progress=step / 10) for of in tasks]
            shuffle.shuffle(batch)
            await store.record(batch)

    async with asyncio.timeout(120):
        await asyncio.gather(*(recorder(seed) for seed in range(4)))
    rows = [await row_of(store, of) for of in tasks]
    assert {round(row.progress, 6) for row in rows} == {0.9}


async def test_finished_by_names_the_tasks_that_have_ended(store: TaskStore) -> None:
    ended, running = task(), task()
    await store.record([event(ended, Status.CANCELLED, 1), event(running, Status.PROCESSING)])
    ids = [final_id(of.task_id) for of in (ended, running, task())]
    rows = await store.finished_by(ids)
    assert [row.task for row in rows] == [ended]
    assert await store.finished_by(ids[1:]) == []


async def page_ids(store: TaskStore, **wanted: object) -> tuple[list[str], str | None]:
    defaults: dict[str, object] = {
        "client_id": None, "status": None, "workflow": None, "cursor": None, "limit": 50,
    }  # fmt: skip
    page = await store.page(**{**defaults, **wanted})  # type: ignore[arg-type]
    return [row.task.task_id for row in page.rows], page.next_cursor


async def add(store: TaskStore, count: int, **facts: object) -> list[str]:
    """Ids of new tasks, newest first."""
    tasks = [task(**facts) for _ in range(count)]  # type: ignore[arg-type]
    await store.record([event(of, Status.QUEUED) for of in tasks])
    return [of.task_id for of in reversed(tasks)]


async def test_pages_are_newest_first_and_stay_put_while_tasks_come(store: TaskStore) -> None:
    ids = await add(store, 7)
    read, cursor = await page_ids(store, limit=3)
    while cursor is not None:
        await add(store, 2)
        more, cursor = await page_ids(store, limit=3, cursor=cursor)
        read += more
    assert read == ids


@pytest.mark.parametrize(("count", "limit"), [(0, 5), (4, 5), (5, 5), (6, 5)])
async def test_the_last_page_has_no_cursor(store: TaskStore, count: int, limit: int) -> None:
    ids = await add(store, count)
    read, cursor = await page_ids(store, limit=limit)
    assert read == ids[:limit]
    assert cursor == (ids[limit - 1] if count > limit else None)


async def test_pages_show_one_client_status_and_workflow(store: TaskStore) -> None:
    mine = await add(store, 2, client_id="alice")
    theirs = await add(store, 2, client_id="bob", workflow="professional-photo-processing")
    row = await store.get(mine[0])
    assert row is not None
    await store.record([event(row.task, Status.COMPLETED)])
    assert (await page_ids(store))[0] == theirs + mine
    assert (await page_ids(store, client_id="alice"))[0] == mine
    assert (await page_ids(store, client_id="nobody"))[0] == []
    assert (await page_ids(store, client_id="Alice"))[0] == []
    assert (await page_ids(store, status=Status.COMPLETED))[0] == mine[:1]
    assert (await page_ids(store, status=Status.QUEUED, client_id="alice"))[0] == mine[1:]
    assert (await page_ids(store, workflow="professional-photo-processing"))[0] == theirs
    for strange in ("", "%", "' OR TRUE --", "no\0such"):
        assert (await page_ids(store, workflow=strange))[0] == []


async def test_an_idempotency_key_belongs_to_its_first_request(store: TaskStore) -> None:
    first, second = new_id(), new_id()
    assert await store.claim("alice", "key", b"body", first) == (b"body", first)
    assert await store.claim("alice", "key", b"body", second) == (b"body", first)
    assert await store.claim("alice", "key", b"other", second) == (b"body", first)
    assert await store.claim("alice", "KEY", b"other", second) == (b"other", second)
    assert await store.claim("bob", "key", b"other", second) == (b"other", second)


async def test_of_many_requests_at_once_one_takes_the_key(store: TaskStore) -> None:
    ids = [new_id() for _ in range(20)]
    held = await asyncio.gather(*(store.claim("alice", "key", b"body", one) for one in ids))
    assert len(set(held)) == 1
    assert held[0][1] in ids


async def test_an_idempotency_key_is_free_again_after_a_day(table: Table) -> None:
    first, second = new_id(), new_id()
    await table.store.claim("alice", "key", b"body", first)
    await table.age(timedelta(hours=23, minutes=59))
    assert await table.store.claim("alice", "key", b"new", second) == (b"body", first)
    await table.age(timedelta(minutes=2))
    assert await table.store.claim("alice", "key", b"new", second) == (b"new", second)


def keeping(job: bytes, sequence: int) -> KeptJob:
    return KeptJob(payload=msgspec.Raw(job), sequence=sequence)


async def kept(store: TaskStore) -> list[tuple[str, bytes, int, int]]:
    """All tasks that have been silent for a minute: id, job, sequence, resends."""
    found = await store.unheard(silent_s=60, after=None, limit=100)
    return [(one.row.task.task_id, one.job, one.sequence, one.resends) for one in found]


async def test_a_job_is_kept_while_its_task_is_silent_and_has_not_ended(table: Table) -> None:
    store, of, other = table.store, task(), task()
    queued = event(of, Status.QUEUED, waits_for=keeping(b'{"n": 1}', 7))
    await store.record([queued, event(other, Status.QUEUED)])
    assert await kept(store) == [], "it was heard just now"
    await table.age(timedelta(seconds=61))
    expected = [(of.task_id, b'{"n": 1}', 7, 0)]
    assert await kept(store) == expected
    (unheard,) = await store.unheard(silent_s=60, after=None, limit=1)
    assert unheard.row == await row_of(store, of)
    await store.record([queued])
    await table.age(timedelta(seconds=61))
    assert await kept(store) == expected, "told twice"
    await store.record([event(of, Status.PROCESSING, 1, progress=0.5)])
    assert await kept(store) == []
    await table.age(timedelta(seconds=61))
    assert await kept(store) == expected
    await store.record([event(of, Status.FAILED, 2)])
    await table.age(timedelta(seconds=61))
    assert await kept(store) == []


@pytest.mark.parametrize("at_once", [True, False])
async def test_the_next_steps_job_takes_the_firsts_place_however_late_that_comes(
    table: Table, *, at_once: bool
) -> None:
    store, of = table.store, task()
    events = [
        event(of, Status.PROCESSING, 1),
        event(of, Status.PROCESSING, 2, waits_for=keeping(b"2", 9)),
        event(of, Status.QUEUED, waits_for=keeping(b"1", 7)),
        event(of, Status.PROCESSING, 3),
    ]
    for some in [events] if at_once else [[one] for one in events]:
        await store.record(some)
    await table.age(timedelta(seconds=61))
    assert await kept(store) == [(of.task_id, b"2", 9, 0)]


async def test_a_job_is_kept_even_if_its_worker_is_heard_before_the_gateway(table: Table) -> None:
    store, of = table.store, task()
    await store.record([event(of, Status.PROCESSING, 1, progress=0.25, attempts=1)])
    before = await row_of(store, of)
    await store.record([event(of, Status.QUEUED, waits_for=keeping(b"1", 7))])
    assert await row_of(store, of) == before
    await table.age(timedelta(seconds=61))
    assert await kept(store) == [(of.task_id, b"1", 7, 0)]


async def test_what_was_sent_again_is_noted_and_counts_as_a_word(table: Table) -> None:
    store, of = table.store, task()
    await store.record([event(of, Status.QUEUED, waits_for=keeping(b"1", 7))])
    await table.age(timedelta(seconds=61))
    await store.resent(of.task_id, sequence=11, resends=2)
    assert await kept(store) == []
    await store.record([event(of, Status.QUEUED, waits_for=keeping(b"1", 7))])
    await table.age(timedelta(seconds=61))
    assert await kept(store) == [(of.task_id, b"1", 11, 2)], "the recorder's word came late"
    await store.record([event(of, Status.PROCESSING, waits_for=keeping(b"2", 12))])
    await table.age(timedelta(seconds=61))
    assert await kept(store) == [(of.task_id, b"2", 12, 0)]
    await store.record([event(of, Status.CANCELLED)])
    await store.resent(of.task_id, sequence=13, resends=3)
    await store.resent(new_id(), sequence=13, resends=3)
    await table.age(timedelta(seconds=61))
    assert await kept(store) == []


async def test_the_unheard_come_in_pages_by_id(table: Table) -> None:
    store, tasks = table.store, [task() for _ in range(5)]
    jobs = [event(of, Status.QUEUED, waits_for=keeping(b"1", 1)) for of in tasks]
    await store.record(jobs)
    await table.age(timedelta(seconds=61))
    seen: list[str] = []
    while some := await store.unheard(silent_s=60, after=seen[-1] if seen else None, limit=2):
        seen += [one.row.task.task_id for one in some]
    assert seen == [of.task_id for of in tasks]


async def test_a_database_that_runs_is_healthy(store: TaskStore) -> None:
    assert await store.healthy()


async def _is_unavailable(store: TaskStore) -> None:
    assert not await store.healthy()
    calls: Sequence[Awaitable[object]] = (
        store.record([event(task(), Status.QUEUED)]),
        store.get(new_id()),
        store.finished_by([final_id(new_id())]),
        page_ids(store),
        store.claim("alice", "key", b"", new_id()),
        store.unheard(silent_s=60, after=None, limit=1),
        store.resent(new_id(), sequence=1, resends=1),
    )
    for call in calls:
        with pytest.raises(Unavailable) as caught:
            await call
        assert (caught.value.code, caught.value.backend) == ("database_unavailable", "database")


async def test_a_sick_fake_is_unavailable() -> None:
    store = FakeTaskStore()
    store.sick = True
    await _is_unavailable(store)


async def test_a_database_that_is_gone_is_unavailable(
    database_url: str, database_gone: Gone
) -> None:
    async with open_database(database_url) as database:
        store = TaskTable(database)
        await store.record([event(task(), Status.QUEUED)])
        async with database_gone():
            await _is_unavailable(store)


async def test_connections_that_the_server_ended_are_noticed_before_they_are_used(
    database_url: str,
) -> None:
    async with open_database(database_url, max_connections=3) as database:
        await asyncio.gather(*(database.fetch("SELECT pg_sleep(0.2)") for _ in range(3)))
        async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as admin:
            others = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> %s"
            mine = [admin.info.backend_pid]
            await admin.execute(f"SELECT pg_terminate_backend(pid) {others}", mine)
            ended = list(database._pool._pool)
            assert len(ended) == 3
            async with asyncio.timeout(60):  # a server's last word may come after its end is known
                while len(select.select(ended, [], [], 0)[0]) < 3:
                    await asyncio.sleep(0.01)
        for _ in range(3):
            assert await database.fetch("SELECT 1 AS one") == [{"one": 1}]


async def test_a_transaction_is_kept_whole_or_not_at_all(database_url: str) -> None:
    async with open_database(database_url) as database:
        await database.fetch("CREATE TABLE kept (n int)")

        async def fail_halfway() -> None:
            async with database.transaction() as connection:
                await connection.execute("INSERT INTO kept VALUES (1)")
                raise RuntimeError("halfway")

        with pytest.raises(RuntimeError, match="halfway"):
            await fail_halfway()
        async with database.transaction() as connection:
            await connection.execute("INSERT INTO kept VALUES (2)")
            await connection.execute("INSERT INTO kept VALUES (3)")
        found = await database.fetch("SELECT n FROM kept ORDER BY n")
    assert [row["n"] for row in found] == [2, 3]


async def test_processes_that_start_together_migrate_once(database_url: str) -> None:
    async def start() -> list[str]:
        async with open_database(database_url) as database:
            rows = await database.fetch("SELECT name FROM schema_migrations ORDER BY name")
        return [row["name"] for row in rows]

    names = sorted(path.name for path in database_module.MIGRATIONS.glob("*.sql"))
    assert names
    assert await asyncio.gather(*(start() for _ in range(8))) == [names] * 8
