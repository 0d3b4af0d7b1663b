"""What the clock removes: old conversions, too many of them, and recordings without a task."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from functions._kit.consume import Tick
from functions._kit.errors import Unavailable
from functions._kit.messages import new_id
from functions._kit.ports import SPEECH
from functions.audio import sweep as module
from functions.audio.contracts import (
    PROMPT,
    TRANSCRIBE,
    WORKFLOW,
    AudioJob,
    converted_key,
    incoming_key,
)
from functions.audio.sweep import sweep
from functions.tasks.contracts import DeadLetter, Status, Task, job_subject

if TYPE_CHECKING:
    from tests.functions.conftest import World

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    """A world with room for 1000 bytes of conversions, for a day."""
    return make_world(audio_cache_bytes=1000, audio_cache_lifetime_s=24 * 3600)


def now() -> datetime:
    return datetime.now(UTC)


def put(world: World, key: str, *, age: timedelta, size_bytes: int = 100) -> str:
    world.objects.add(key, bytes(size_bytes), "audio/wav")
    world.objects.modified_at[key] = now() - age
    return key


def converted(number: int) -> str:
    return converted_key(f"{number:064x}", SPEECH)


async def run_sweep(world: World, **ports: Any) -> set[str]:
    """Sweep; give the keys that are left."""
    given = {
        "objects": world.objects,
        "store": world.store,
        "stream": world.stream,
        "dead_letters": world.dead_letters,
        "limits": world.limits,
    }
    await sweep.handler(Tick(at=now()), **(given | ports))
    return set(world.objects.contents)


async def recording(world: World, *states: Status, age: timedelta = 2 * HOUR) -> str:
    """The recording of a task that has gone through `states`; its key."""
    task = await world.add_task(workflow=WORKFLOW)
    for status in states:
        await world.tell(task, status)
    return put(world, incoming_key(task.task_id), age=age)


def job(source_key: str) -> AudioJob:
    task_id = source_key.rpartition("/")[2]
    task = Task(task_id=task_id, client_id="a", workflow=WORKFLOW, priority=5, created_at=now())
    return AudioJob(task=task, steps=(TRANSCRIBE,), source_key=source_key)


async def bury(world: World, payload: bytes, function: str = TRANSCRIBE.function) -> None:
    letter = DeadLetter(
        subject=job_subject(TRANSCRIBE.function, 5),
        function=function,
        code="internal_error",
        message="it went wrong",
        attempts=3,
        at=now(),
        payload=payload,
    )
    await world.stream.publish(f"dead.{function}", letter)


async def test_conversions_live_for_their_lifetime(world: World) -> None:
    young = {put(world, converted(n), age=DAY - n * HOUR) for n in range(1, 5)}
    for n in range(5, 9):
        put(world, converted(n), age=DAY + n * HOUR)
    assert await run_sweep(world) == young


async def test_beyond_the_limit_the_oldest_go(world: World) -> None:
    ages = [7, 1, 5, 3, 9, 2]
    keys = {n: put(world, converted(n), age=n * HOUR, size_bytes=250) for n in ages}
    assert await run_sweep(world) == {keys[n] for n in (1, 2, 3, 5)}
    assert await run_sweep(world) == {keys[n] for n in (1, 2, 3, 5)}


async def test_what_fits_behind_one_that_is_too_large_goes_all_the_same(world: World) -> None:
    newest = put(world, converted(1), age=1 * HOUR, size_bytes=600)
    put(world, converted(2), age=2 * HOUR, size_bytes=500)
    put(world, converted(3), age=3 * HOUR, size_bytes=100)
    assert await run_sweep(world) == {newest}


async def test_many_go_in_steps(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STEP", 7)
    for n in range(30):
        put(world, converted(n), age=2 * DAY)
    assert await run_sweep(world) == set()


async def test_other_peoples_files_stay(world: World) -> None:
    keys = {
        put(world, k, age=9 * DAY) for k in ("uploads/a/b.jpg", "audio", "audio/x", "results/y")
    }
    assert await run_sweep(world) == keys


@pytest.mark.parametrize("status", [Status.COMPLETED, Status.FAILED, Status.CANCELLED])
async def test_a_recording_goes_an_hour_after_it_came_if_its_task_has_ended(
    world: World, status: Status
) -> None:
    await recording(world, Status.PROCESSING, status)
    young = await recording(world, status, age=HOUR - timedelta(minutes=1))
    assert await run_sweep(world) == {young}


async def test_a_recording_of_a_task_that_goes_on_stays(world: World) -> None:
    waits = await recording(world, age=9 * DAY)
    goes_on = await recording(world, Status.PROCESSING, age=9 * DAY)
    assert await run_sweep(world) == {waits, goes_on}


async def test_a_recording_of_no_task_goes(world: World) -> None:
    put(world, incoming_key(new_id()), age=2 * HOUR)
    put(world, incoming_key("no task's id"), age=2 * HOUR)
    young = put(world, incoming_key(new_id()), age=HOUR / 2)
    assert await run_sweep(world) == {young}


async def test_a_recording_whose_job_may_wait_without_a_row_stays(world: World) -> None:
    key = put(world, incoming_key(new_id()), age=2 * HOUR)
    record = await world.stream.publish(job_subject(TRANSCRIBE.function, 5), job(key))
    stored_at(world, record.sequence, now() - timedelta(hours=1, minutes=30))
    assert await run_sweep(world) == {key}
    stored_at(world, record.sequence, now())
    assert await run_sweep(world) == set(), "that job came too late to be this recording's"


def stored_at(world: World, sequence: int, moment: datetime) -> None:
    """Make the stream remember another time of storing."""
    for stored in world.stream.records("jobs.>"):
        if stored.sequence == sequence:
            object.__setattr__(stored, "stored_at", moment)


async def test_a_recording_that_may_be_sent_again_stays(world: World) -> None:
    keys = [await recording(world, Status.FAILED) for _ in range(3)]
    await bury(world, msgspec.json.encode(job(keys[0])))
    await bury(world, b"no job")
    await bury(world, msgspec.json.encode(job(keys[1])), function=PROMPT.function)
    assert await run_sweep(world) == {keys[0]}, "the words' translation needs no recording"
    await world.dead_letters.purge(function=None)
    assert await run_sweep(world) == set()


async def test_all_dead_letters_are_looked_at(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STEP", 2)
    keys = {await recording(world, Status.FAILED) for _ in range(7)}
    for key in keys:
        await bury(world, msgspec.json.encode(job(key)))
    assert await run_sweep(world) == keys


@pytest.mark.parametrize("away", ["store", "stream", "dead letters"])
async def test_nothing_is_removed_that_nobody_can_vouch_for(world: World, away: str) -> None:
    key = await recording(world, Status.FAILED)
    world.store.sick = away == "store"
    if away == "stream":
        world.stream.sick = True
    dead_letters: Any = world.dead_letters
    if away == "dead letters":

        class Away:
            async def page(self, **_: Any) -> list[Any]:
                raise Unavailable("queue", "away")

        dead_letters = Away()
    with pytest.raises(Unavailable):
        await run_sweep(world, dead_letters=dead_letters)
    assert set(world.objects.contents) == {key}


async def test_a_bucket_that_is_away_is_swept_the_next_time(world: World) -> None:
    world.objects.sick = True
    with pytest.raises(Unavailable):
        await run_sweep(world)
