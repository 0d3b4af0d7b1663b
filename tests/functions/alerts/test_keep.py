"""From the frame to the picture that stays: keep, discard, record."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from functions._kit.errors import JobFailed, Unavailable
from functions.alerts import count, discard, keep, record
from functions.alerts.contracts import Alert, CountsEvent, DiscardJob, KeepJob, image_key

if TYPE_CHECKING:
    from tests.functions.alerts.conftest import CrashAt, Yard

NewAlert = Callable[..., Alert]
FRAME = "frames/gate/1.jpg"


@pytest.fixture
def two(new_alert: NewAlert) -> tuple[Alert, Alert]:
    """Two alerts of one frame."""
    return new_alert(frame_key=FRAME), new_alert(frame_key=FRAME, label="car")


async def run(yard: Yard, job: KeepJob) -> None:
    await keep.keep.handler(job, yard.objects, yard.stream)


async def test_each_alert_gets_the_picture_and_then_the_frame_may_go(
    yard: Yard, two: tuple[Alert, Alert], jpeg: bytes
) -> None:
    yard.put(FRAME, jpeg, "image/png")
    await run(yard, KeepJob(alerts=two, discard_frame=True))
    keys = [f"alerts/2026-05-04/gate/{alert.alert_id}.jpg" for alert in two]
    assert [image_key(alert) for alert in two] == keys
    assert yard.objects.contents == {FRAME: jpeg} | dict.fromkeys(keys, jpeg)
    info = await yard.objects.head(keys[0])
    assert info is not None
    assert info.content_type == "image/png"
    facts = yard.alerts("events.alert.gate.image")
    assert facts == [
        msgspec.structs.replace(alert, image_key=key) for alert, key in zip(two, keys, strict=True)
    ]
    assert yard.alerts("events.alert.gate") == []
    assert yard.discarded() == [FRAME]


async def test_somebody_elses_frame_stays(yard: Yard, new_alert: NewAlert, jpeg: bytes) -> None:
    alert = new_alert(frame_key=yard.put("cctv/1.jpg", jpeg))
    await run(yard, KeepJob(alerts=(alert,), discard_frame=False))
    assert yard.discarded() == []
    assert sorted(yard.objects.contents) == sorted([image_key(alert), "cctv/1.jpg"])


async def test_keeping_again_changes_nothing(
    yard: Yard, two: tuple[Alert, Alert], jpeg: bytes
) -> None:
    yard.put(FRAME, jpeg)
    job = KeepJob(alerts=two, discard_frame=True)
    await run(yard, job)
    await yard.work_off()
    once = (dict(yard.objects.contents), yard.stream.records("events.>"), yard.discarded())
    await run(yard, job)
    assert (dict(yard.objects.contents), yard.stream.records("events.>"), yard.discarded()) == once


async def test_a_frame_that_is_gone_is_a_dead_letter_and_no_fact(
    yard: Yard, two: tuple[Alert, Alert]
) -> None:
    with pytest.raises(JobFailed) as caught:
        await run(yard, KeepJob(alerts=two, discard_frame=True))
    assert caught.value.code == "frame_gone"
    assert FRAME in caught.value.message
    assert yard.alerts("events.>") == []
    assert yard.discarded() == []


@pytest.mark.parametrize("discard_frame", [True, False])
async def test_a_crash_at_any_step_ends_in_the_same_state(
    make_yard: Callable[[], Yard],
    two: tuple[Alert, Alert],
    jpeg: bytes,
    at_every_step: Callable[..., Awaitable[int]],
    crash: type[Exception],
    *,
    discard_frame: bool,
) -> None:
    job = KeepJob(alerts=two, discard_frame=discard_frame)
    kept = {image_key(alert): jpeg for alert in two}

    async def attempt(plan: CrashAt) -> None:
        yard = make_yard()
        yard.put(FRAME, jpeg)
        try:
            await keep.keep.handler(job, plan.wrap(yard.objects), plan.wrap(yard.stream))
        except crash:
            for fact in yard.alerts("events.>"):
                assert fact.image_key in yard.objects.contents, "it points at nothing"
            await discard.discard.handler(
                [DiscardJob(keys=tuple(yard.discarded()))], yard.objects
            )  # the other worker is quicker
            await run(yard, job)
        await record.record.handler(yard.alerts("events.>"), yard.alert_store)
        await discard.discard.handler([DiscardJob(keys=tuple(yard.discarded()))], yard.objects)
        assert yard.objects.contents == kept | ({} if discard_frame else {FRAME: jpeg})
        assert len(yard.alerts("events.>")) == 2
        rows = [await yard.alert_store.get(alert.alert_id) for alert in two]
        assert [row and row.alert.image_key for row in rows] == list(kept)

    assert await at_every_step(attempt) == 2 * (4 + discard_frame)  # two copies, two facts, a job


@pytest.mark.parametrize("part", ["objects", "stream"])
async def test_a_sick_backend_is_waited_for(
    yard: Yard, two: tuple[Alert, Alert], jpeg: bytes, part: str
) -> None:
    yard.put(FRAME, jpeg)
    getattr(yard, part).sick = True
    job = KeepJob(alerts=two, discard_frame=True)
    with pytest.raises(Unavailable):
        await run(yard, job)
    getattr(yard, part).sick = False
    await run(yard, job)
    assert yard.discarded() == [FRAME]


def test_keeping_has_three_tries_with_growing_waits() -> None:
    for consumer in (keep.keep, discard.discard):
        policy = consumer.policy
        assert policy.attempts == 3
        assert policy.backoff_after(1) < policy.backoff_after(2)


async def test_discarding_takes_many_at_once_and_absent_ones_too(yard: Yard, jpeg: bytes) -> None:
    for name in "abc":
        yard.put(f"frames/gate/{name}", jpeg)
    jobs = [
        DiscardJob(keys=("frames/gate/a", "frames/gate/b")),
        DiscardJob(keys=("frames/gate/a", "frames/gate/gone")),
    ]
    await discard.discard.handler(jobs, yard.objects)
    await discard.discard.handler(jobs, yard.objects)
    assert list(yard.objects.contents) == ["frames/gate/c"]


@pytest.mark.parametrize("image_first", [False, True])
async def test_a_row_has_its_picture_whatever_fact_came_first(
    yard: Yard, new_alert: NewAlert, *, image_first: bool
) -> None:
    alert = new_alert()
    kept = msgspec.structs.replace(alert, image_key=image_key(alert))
    facts = [kept, alert] if image_first else [alert, kept]
    for batch in (facts, *([fact] for fact in facts), facts):
        await record.record.handler(batch, yard.alert_store)
    row = await yard.alert_store.get(alert.alert_id)
    assert row is not None
    assert row.alert == kept


def test_the_recorder_takes_a_hundred_or_what_came_in_two_seconds() -> None:
    assert record.record.subject == "events.alert.>"
    assert record.record.policy.batch == 100
    assert 0 < record.record.policy.linger_s <= 2


async def test_counts_are_taken_over_and_repeating_changes_nothing(yard: Yard) -> None:
    def event(source: str, **sums: int) -> CountsEvent:
        counts = [
            {
                "source": source,
                "camera_id": "gate",
                "hour": "2026-05-04T12:00:00Z",
                "name": name,
                "count": number,
            }
            for name, number in sums.items()
        ]
        return msgspec.convert({"counts": counts}, CountsEvent)

    first, second = event("a", frames=3, shed=1), event("a", frames=5)
    other = event("b", frames=100)
    batches: list[list[Any]] = [[first, second, other], [first], [second, other]]
    for batch in batches:
        await count.count.handler(batch, yard.alert_store)
    hour = first.counts[0].hour
    after = hour.replace(hour=13)
    counts = await yard.alert_store.camera_counts("gate", since=hour, until=after)
    assert counts == {hour: {"frames": 105, "shed": 1}}
