"""What the clock does: old alerts go, and what the ordinary way has left behind is dealt with."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from functions._kit.consume import Tick
from functions._kit.errors import Unavailable
from functions._kit.messages import now
from functions._kit.ports import AlertFilter
from functions.alerts import retain, sweep
from functions.alerts.contracts import (
    KEEP_SUBJECT,
    Alert,
    Frame,
    KeepJob,
    frame_subject,
    image_key,
)
from functions.tasks.contracts import DeadLetter

if TYPE_CHECKING:
    from tests.functions.alerts.conftest import CrashAt, Yard

NewAlert = Callable[..., Alert]
NOON = datetime(2026, 5, 4, 12, 0, 0, tzinfo=UTC)
DAY = timedelta(days=1)
HOUR = timedelta(hours=1)


async def run_retain(yard: Yard, *, at: datetime = NOON, **ports: Any) -> None:
    given = {"alert_store": yard.alert_store, "objects": yard.objects, "values": yard.values}
    await retain.retain.handler(Tick(at=at), **(given | ports))


async def run_sweep(yard: Yard, *, at: datetime = NOON, **ports: Any) -> None:
    given = {
        "alert_store": yard.alert_store,
        "objects": yard.objects,
        "stream": yard.stream,
        "dead_letters": yard.dead_letters,
    }
    await sweep.sweep.handler(Tick(at=at), **(given | ports))


def kept(new_alert: NewAlert, yard: Yard, *, days: float, camera_id: str = "gate") -> Alert:
    """An alert of so many days ago, and its picture."""
    captured_at = NOON - timedelta(days=days)
    alert = new_alert(camera_id=camera_id, captured_at=captured_at, created_at=captured_at)
    alert = msgspec.structs.replace(alert, image_key=image_key(alert))
    yard.put(image_key(alert), b"picture")
    return alert


async def ids(yard: Yard) -> set[str]:
    page = await yard.alert_store.page(AlertFilter(), cursor=None, limit=10_000)
    return {row.alert.alert_id for row in page.rows}


class TestRetain:
    async def test_each_camera_keeps_its_alerts_as_long_as_it_says(
        self, yard: Yard, new_alert: NewAlert
    ) -> None:
        await yard.set_rules("gate", retention_days=2)
        await yard.set_rules("door", retention_days=0.5)
        ages = {"gate": (1.9, 2.1), "door": (0.4, 0.6), "yard": (29.9, 30.1)}
        alerts = {
            (camera_id, days): kept(new_alert, yard, days=days, camera_id=camera_id)
            for camera_id, both in ages.items()
            for days in both
        }
        await yard.alert_store.record(list(alerts.values()))
        await run_retain(yard)
        young = {alerts[camera_id, both[0]] for camera_id, both in ages.items()}
        assert await ids(yard) == {alert.alert_id for alert in young}
        assert set(yard.objects.contents) == {alert.image_key for alert in young}
        assert await yard.alert_store.discarded(10) == []

    async def test_many_go_in_small_steps(
        self, yard: Yard, new_alert: NewAlert, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(retain, "STEP", 7)
        alerts = [kept(new_alert, yard, days=40 + n / 100) for n in range(50)]
        await yard.alert_store.record(alerts)
        asked: list[tuple[str, int]] = []

        class Watched:
            """Tells how much was asked for at once."""

            def __getattr__(self, name: str) -> Any:
                return getattr(yard.alert_store, name)

            async def expire(self, camera_id: str, *, before: datetime, limit: int) -> int:
                asked.append(("expire", limit))
                return await yard.alert_store.expire(camera_id, before=before, limit=limit)

            async def forget(self, keys: Sequence[str]) -> None:
                asked.append(("forget", len(keys)))
                await yard.alert_store.forget(keys)

        await run_retain(yard, alert_store=Watched())
        assert await ids(yard) == set()
        assert yard.objects.contents == {}
        assert {count for _, count in asked} <= {7, 1}
        assert asked[:4] == [("expire", 7), ("forget", 7)] * 2, "pictures wait till the end"

    async def test_a_crash_at_any_step_leaves_neither_picture_nor_alert_alone(
        self,
        make_yard: Callable[[], Yard],
        new_alert: NewAlert,
        monkeypatch: pytest.MonkeyPatch,
        at_every_step: Callable[..., Awaitable[int]],
        crash: type[Exception],
    ) -> None:
        monkeypatch.setattr(retain, "STEP", 2)

        async def run(plan: CrashAt) -> None:
            yard = make_yard()
            alerts = [kept(new_alert, yard, days=n * 10, camera_id="ab"[n % 2]) for n in range(9)]
            await yard.alert_store.record(alerts)
            try:
                await run_retain(
                    yard,
                    alert_store=plan.wrap(yard.alert_store),
                    objects=plan.wrap(yard.objects),
                )
            except crash:
                page = await yard.alert_store.page(AlertFilter(), cursor=None, limit=100)
                for row in page.rows:
                    assert row.alert.image_key in yard.objects.contents, "it points at nothing"
                await run_retain(yard)
            young = {alert.alert_id: alert.image_key for alert in alerts[:4]}
            assert await ids(yard) == set(young)
            assert set(yard.objects.contents) == set(young.values())
            assert await yard.alert_store.discarded(10) == []

        assert await at_every_step(run) > 20

    @pytest.mark.parametrize("part", ["alert_store", "objects"])
    async def test_a_sick_backend_is_waited_for(
        self, yard: Yard, new_alert: NewAlert, part: str
    ) -> None:
        await yard.alert_store.record([kept(new_alert, yard, days=31)])
        getattr(yard, part).sick = True
        with pytest.raises(Unavailable):
            await run_retain(yard)
        getattr(yard, part).sick = False
        await run_retain(yard)
        assert (await ids(yard), yard.objects.contents) == (set(), {})

    async def test_a_frame_that_was_never_kept_goes_with_its_alert_unless_it_is_somebody_elses(
        self, yard: Yard, new_alert: NewAlert
    ) -> None:
        old = NOON - 31 * DAY
        for key in ("frames/gate/1.jpg", "cctv/1.jpg"):
            yard.put(key, b"picture")
            await yard.alert_store.record(
                [new_alert(frame_key=key, captured_at=old, created_at=old)]
            )
        await run_retain(yard)
        assert list(yard.objects.contents) == ["cctv/1.jpg"]


def put_frame(yard: Yard, name: str, *, age: timedelta) -> str:
    key = yard.put(f"frames/gate/{name}.jpg", b"picture")
    yard.objects.modified_at[key] = NOON - age
    return key


async def message(yard: Yard, subject: str, content: msgspec.Struct, *, age: timedelta) -> None:
    """A message that was stored so long before noon."""
    receipt = await yard.stream.publish(subject, content)
    log = yard.stream._logs[subject.partition(".")[0]]
    at = next(n for n, record in enumerate(log.records) if record.sequence == receipt.sequence)
    log.records[at] = replace(log.records[at], stored_at=NOON - age)


def letter(payload: bytes, function: str = "alerts.detect") -> DeadLetter:
    return DeadLetter(
        subject="frames.gate",
        function=function,
        code="corrupt_picture",
        message="it is",
        attempts=1,
        at=now(),
        payload=payload,
    )


class TestSweep:
    async def test_frames_that_nothing_names_are_removed_after_an_hour(self, yard: Yard) -> None:
        put_frame(yard, "old", age=HOUR + timedelta(seconds=1))
        young = put_frame(yard, "young", age=HOUR)
        others = [yard.put(f"{place}/gate/1.jpg", b"x") for place in ("alerts", "cctv", "uploads")]
        for key in others:
            yard.objects.modified_at[key] = NOON - 9 * DAY
        await run_sweep(yard)
        assert sorted(yard.objects.contents) == sorted([*others, young])

    async def test_frames_stay_while_an_older_message_waits(self, yard: Yard) -> None:
        waiting = put_frame(yard, "waiting", age=5 * HOUR + timedelta(seconds=1))
        put_frame(yard, "gone", age=6 * HOUR + timedelta(seconds=1))
        young = put_frame(yard, "young", age=1.5 * HOUR)
        await message(yard, frame_subject("gate"), Frame(key=waiting), age=5 * HOUR)
        await message(yard, frame_subject("door"), Frame(key="cctv/1.jpg"), age=HOUR)
        await run_sweep(yard)
        assert list(yard.objects.contents) == [waiting, young]
        yard.stream.forget("frames.gate")
        await run_sweep(yard)
        assert list(yard.objects.contents) == [young], "the door's message waits for an hour"
        yard.stream.forget("frames.>")
        await run_sweep(yard)
        assert yard.objects.contents == {}

    @pytest.mark.parametrize("slash", ["", "/"])
    async def test_frames_stay_while_a_letter_names_them(self, yard: Yard, slash: str) -> None:
        named = put_frame(yard, "named", age=9 * DAY)
        put_frame(yard, "keeps", age=9 * DAY)
        payloads = [b"\xff no frame", msgspec.json.encode(Frame(key=slash + named))]
        for payload in payloads:
            await yard.stream.publish("dead.alerts.detect", letter(payload))
        other = letter(msgspec.json.encode(Frame(key="frames/gate/keeps.jpg")), "media.upscale")
        await yard.stream.publish("dead.media.upscale", other)
        await run_sweep(yard)
        assert list(yard.objects.contents) == [named]
        await yard.dead_letters.purge(function=None)
        await run_sweep(yard)
        assert yard.objects.contents == {}

    async def test_many_letters_are_all_read(
        self, yard: Yard, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sweep, "STEP", 3)
        keys = [put_frame(yard, f"{n:02}", age=9 * DAY) for n in range(20)]
        for key in keys[::2]:
            content = letter(msgspec.json.encode(Frame(key=key)))
            await yard.stream.publish("dead.alerts.detect", content)
        await run_sweep(yard)
        assert sorted(yard.objects.contents) == keys[::2]

    async def test_frames_stay_while_an_alert_without_picture_names_them(
        self, yard: Yard, new_alert: NewAlert
    ) -> None:
        needed = put_frame(yard, "needed", age=9 * DAY)
        put_frame(yard, "kept", age=9 * DAY)
        alert = new_alert(frame_key="frames/gate/kept.jpg")
        kept = msgspec.structs.replace(alert, image_key=image_key(alert))
        await yard.alert_store.record([new_alert(frame_key=needed), kept])
        await run_sweep(yard)
        assert list(yard.objects.contents) == [needed]

    async def test_frames_stay_while_keeping_is_behind(
        self, yard: Yard, new_alert: NewAlert
    ) -> None:
        """After a long night the recorder may know less than the queue does."""
        named = put_frame(yard, "named", age=3 * HOUR)
        job = KeepJob(alerts=(new_alert(frame_key=named),), discard_frame=True)
        await message(yard, KEEP_SUBJECT, job, age=2 * HOUR)
        await run_sweep(yard)
        assert list(yard.objects.contents) == [named]

    async def test_a_keeping_that_is_up_to_date_holds_up_nothing(
        self, yard: Yard, new_alert: NewAlert
    ) -> None:
        put_frame(yard, "old", age=3 * HOUR)
        job = KeepJob(alerts=(new_alert(),), discard_frame=True)
        await message(yard, KEEP_SUBJECT, job, age=timedelta(seconds=3))
        await run_sweep(yard)
        assert yard.objects.contents == {}

    @pytest.mark.parametrize("copied", [False, True])
    async def test_an_alert_without_picture_is_ordered_once_more(
        self, yard: Yard, new_alert: NewAlert, *, copied: bool
    ) -> None:
        old = NOON - sweep.KEEP_AFTER - timedelta(seconds=1)
        alert = new_alert(frame_key="frames/gate/1.jpg", captured_at=old, created_at=old)
        source = image_key(alert) if copied else alert.frame_key
        yard.put(source, b"picture")
        hopeless = new_alert(frame_key="frames/gate/2.jpg", captured_at=old, created_at=old)
        young = new_alert(frame_key="frames/gate/1.jpg", created_at=NOON)
        await yard.alert_store.record([alert, hopeless, young])
        await run_sweep(yard)
        await run_sweep(yard)
        assert yard.keep_jobs() == [KeepJob(alerts=(alert,), discard_frame=False)]
        await yard.work_off()
        row = await yard.alert_store.get(alert.alert_id)
        assert row is not None
        assert yard.objects.contents[row.alert.image_key or ""] == b"picture"

    async def test_a_picture_that_was_kept_late_lets_its_frame_go(
        self, yard: Yard, new_alert: NewAlert
    ) -> None:
        key = put_frame(yard, "late", age=2 * HOUR)
        old = NOON - 2 * HOUR
        alert = new_alert(frame_key=key, captured_at=old, created_at=old)
        await yard.alert_store.record([alert])
        await run_sweep(yard)
        await yard.work_off()
        yard.stream.forget("jobs.>")
        await run_sweep(yard)
        assert list(yard.objects.contents) == [image_key(alert)]

    async def test_many_frames_go_in_steps(
        self, yard: Yard, new_alert: NewAlert, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sweep, "STEP", 4)
        keys = [put_frame(yard, f"{n:02}", age=DAY) for n in range(30)]
        await yard.alert_store.record([new_alert(frame_key=keys[13])])
        await run_sweep(yard)
        assert list(yard.objects.contents) == [keys[13]]

    @pytest.mark.parametrize("part", ["alert_store", "objects", "stream"])
    async def test_a_sick_backend_is_waited_for_and_nothing_is_removed(
        self, yard: Yard, part: str
    ) -> None:
        put_frame(yard, "old", age=DAY)
        getattr(yard, part).sick = True
        with pytest.raises(Unavailable):
            await run_sweep(yard)
        assert len(yard.objects.contents) == 1


def test_both_run_by_the_clock_and_again_where_a_worker_died() -> None:
    for consumer in (retain.retain, sweep.sweep):
        assert consumer.policy.every_s is not None
        assert consumer.policy.attempts > 1
