from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest

from functions._kit.errors import JobFailed, NotFound, RequestError, Unavailable
from functions._kit.messages import now
from functions._kit.ports import ServedModel, TensorSpec
from functions.alerts.contracts import (
    PEOPLE_VEHICLES_ANIMALS,
    Box,
    Frame,
    Rules,
    alert_id,
    frame_subject,
)

if TYPE_CHECKING:
    from tests.functions.alerts.conftest import CrashAt, Yard

NOON = datetime(2026, 5, 4, 12, 0, 0, tzinfo=UTC)
PERSON, CAR, DOG, CUP = range(4)
Picture = Callable[..., bytes]


async def test_what_is_seen_becomes_a_fact_with_all_that_is_known(yard: Yard, jpeg: bytes) -> None:
    yard.inference.sees = [(32, 24, 64, 48, 0.87654, PERSON)]
    frame = yard.frame(jpeg, seconds=1.5)
    before = now()
    await yard.detect(frame)
    (alert,) = yard.alerts("events.alert.gate")
    assert before <= alert.created_at <= now()
    assert uuid.UUID(alert.alert_id).version == 7
    assert msgspec.to_builtins(alert) == {
        "alert_id": alert.alert_id,
        "camera_id": "gate",
        "label": "person",
        "score": 0.8765,
        "box": {"x": 0.1, "y": 0.1, "width": 0.2, "height": 0.2},
        "captured_at": "2026-05-04T12:00:01.500000Z",
        "created_at": alert.created_at.isoformat().replace("+00:00", "Z"),
        "model": "nanodet-g-416",
        "model_version": "1",
        "frame_key": frame.key,
        "frame_bytes": len(jpeg),
    }
    (job,) = yard.keep_jobs()
    assert (job.alerts, job.discard_frame) == ((alert,), True)
    assert yard.discarded() == []
    assert yard.counted() == {"frames": 1}
    assert yard.tally.frames_in_hand("gate") == 0


@pytest.mark.parametrize(
    ("width", "height", "inner"),
    [
        (640, 480, (320, 240)),
        (640, 240, (320, 120)),  # wide: grey below
        (240, 640, (90, 240)),  # tall: grey on the right
        (32, 24, (320, 240)),  # small: enlarged
        (1920, 1080, (320, 180)),
    ],
)
async def test_boxes_go_from_the_models_pixels_to_fractions_of_the_picture(
    yard: Yard, picture: Picture, width: int, height: int, inner: tuple[int, int]
) -> None:
    inner_width, inner_height = inner
    yard.inference.sees = [
        (inner_width / 4, inner_height / 2, inner_width / 2, inner_height / 4, 0.9, PERSON)
    ]
    await yard.detect(yard.frame(picture(width, height)))
    (alert,) = yard.alerts()
    assert alert.box == Box(x=0.25, y=0.5, width=0.5, height=0.25)
    (pixels,) = yard.inference.looked_at
    assert (pixels[inner_height:] == 114).all()
    assert (pixels[:, inner_width:] == 114).all()
    assert not (pixels[:inner_height, :inner_width] == 114).all(axis=(1, 2)).any()


@pytest.mark.parametrize("orientation", range(1, 9))
async def test_a_turned_frame_is_looked_at_upright(
    yard: Yard, picture: Picture, orientation: int
) -> None:
    turned = orientation >= 5
    yard.inference.sees = [(0, 0, 90 if turned else 320, 120, 0.9, PERSON)]
    await yard.detect(yard.frame(picture(640, 240, orientation=orientation)))
    (alert,) = yard.alerts()
    height = 0.5 if turned else 1.0  # 90 x 240 of the model's pixels, or 320 x 120
    assert alert.box == Box(x=0, y=0, width=1.0, height=height)


async def test_boxes_end_at_the_edges_of_the_picture(yard: Yard, picture: Picture) -> None:
    await yard.set_rules(cooldown_seconds=0)
    yard.inference.sees = [
        (-32, -12, 64, 24, 0.9, PERSON),
        (288, 108, 64, 24, 0.8, PERSON),
        (10, 130, 20, 20, 0.7, PERSON),  # in the grey below: no part of the picture
        (-40, 10, 30, 20, 0.6, PERSON),
    ]
    await yard.detect(yard.frame(picture(640, 240)))
    assert [alert.box for alert in yard.alerts()] == [
        Box(x=0, y=0, width=0.1, height=0.1),
        Box(x=0.9, y=0.9, width=0.1, height=0.1),
    ]
    assert yard.counted() == {"frames": 1}


async def test_rows_after_the_last_object_are_nothing(yard: Yard, jpeg: bytes) -> None:
    await yard.set_rules(cooldown_seconds=0, min_score=0)
    yard.inference.sees = [(0, 0, 9, 9, 0.1, CAR), (0, 0, 0, 0, 0, 0), (5, 5, 9, 9, 0.9, PERSON)]
    await yard.detect(yard.frame(jpeg))
    assert [alert.label for alert in yard.alerts()] == ["car"]


async def test_a_frame_of_nothing_makes_no_alert_and_is_discarded(yard: Yard, jpeg: bytes) -> None:
    frame = yard.frame(jpeg)
    await yard.detect(frame)
    assert (yard.alerts(), yard.keep_jobs(), yard.discarded()) == ([], [], [frame.key])
    assert yard.counted() == {"frames": 1}


async def test_somebody_elses_object_is_never_discarded(yard: Yard, jpeg: bytes) -> None:
    frame = Frame(key=yard.put("cctv/gate/1.jpg", jpeg), captured_at=NOON)
    await yard.detect(frame)
    assert yard.discarded() == []
    yard.inference.sees = [(0, 0, 64, 48, 0.9, PERSON)]
    await yard.detect(frame)
    (job,) = yard.keep_jobs()
    assert not job.discard_frame
    await yard.work_off()
    assert "cctv/gate/1.jpg" in yard.objects.contents


async def test_a_slash_before_the_key_means_the_same_object(yard: Yard, jpeg: bytes) -> None:
    yard.inference.sees = [(0, 0, 64, 48, 0.9, PERSON)]
    yard.put("cctv/1.jpg", jpeg)
    await yard.detect(Frame(key="/cctv/1.jpg", captured_at=NOON))
    assert [alert.frame_key for alert in yard.alerts()] == ["cctv/1.jpg"]


async def test_a_camera_without_rules_reports_people_vehicles_and_animals(
    yard: Yard, jpeg: bytes
) -> None:
    assert Rules() == msgspec.json.decode(b"{}", type=Rules)
    assert (Rules().labels, Rules().min_score) == (list(PEOPLE_VEHICLES_ANIMALS), 0.5)
    assert (Rules().zones, Rules().cooldown_seconds) == ([], 10.0)
    yard.inference.sees = [
        (0, 0, 50, 50, 0.9, CUP),
        (0, 0, 50, 50, 0.8, DOG),
        (0, 0, 50, 50, 0.5, CAR),
        (0, 0, 50, 50, 0.49, PERSON),
    ]
    await yard.detect(yard.frame(jpeg))
    assert [alert.label for alert in yard.alerts()] == ["dog", "car"]
    assert yard.counted() == {"frames": 1, "ignored.cup": 1, "ignored.person": 1}


async def test_a_frame_that_says_no_time_was_captured_when_it_arrived(
    yard: Yard, jpeg: bytes
) -> None:
    yard.inference.sees = [(0, 0, 64, 48, 0.9, PERSON)]
    arrived = NOON + timedelta(seconds=7)
    frame = Frame(key=yard.frame(jpeg).key)
    await yard.detect(frame, stored_at=arrived)
    await yard.detect(frame, stored_at=arrived, attempt=2)
    (alert,) = yard.alerts()
    assert alert.captured_at == arrived


async def test_moments_of_any_offset_are_told_in_utc(yard: Yard, jpeg: bytes) -> None:
    yard.inference.sees = [(0, 0, 64, 48, 0.9, PERSON)]
    message = {"key": yard.frame(jpeg).key, "captured_at": "2026-05-04T23:30:00+11:30"}
    await yard.detect(msgspec.convert(message, Frame))
    (alert,) = yard.alerts()
    assert alert.captured_at.isoformat() == "2026-05-04T12:00:00+00:00"


async def test_a_frame_looked_at_twice_tells_nothing_twice(yard: Yard, jpeg: bytes) -> None:
    yard.inference.sees = [
        (0, 0, 64, 48, 0.9, PERSON), (9, 9, 64, 48, 0.8, PERSON), (0, 0, 64, 48, 0.7, CAR),
    ]  # fmt: skip
    for cooldown_s in (0, 10):
        await yard.set_rules(cooldown_seconds=cooldown_s)
        frame = yard.frame(jpeg, seconds=cooldown_s * 100)
        await yard.detect(frame)
        once = (yard.stream.records("events.>"), yard.stream.records("jobs.>"))
        await yard.detect(frame, attempt=2)
        assert (yard.stream.records("events.>"), yard.stream.records("jobs.>")) == once
    assert len({alert.alert_id for alert in yard.alerts()}) == len(yard.alerts()) == 3 + 2


def test_an_alerts_id_begins_with_the_time_of_capture_and_tells_findings_apart() -> None:
    frame = Frame(key="a")
    one = alert_id("gate", frame, NOON, "x")
    assert one == alert_id("gate", frame, NOON, "x")
    others = {
        alert_id("gate", frame, NOON, "y"),
        alert_id("door", frame, NOON, "x"),
        alert_id("gate", Frame(key="b"), NOON, "x"),
        alert_id("gate", frame, NOON + timedelta(microseconds=1), "x"),
    }
    assert len(others | {one}) == 5
    value = uuid.UUID(one)
    assert (value.version, value.variant) == (7, uuid.RFC_4122)
    assert value.int >> 80 == int(NOON.timestamp() * 1000)
    assert one < alert_id("gate", frame, NOON + timedelta(milliseconds=1), "x")


async def test_a_crash_at_any_step_leaves_the_same_facts_after_another_run(
    make_yard: Callable[[], Yard],
    jpeg: bytes,
    at_every_step: Callable[..., Awaitable[int]],
    crash: type[Exception],
) -> None:
    sees = [(0, 0, 64, 48, 0.9, PERSON), (0, 0, 64, 48, 0.8, CAR), (0, 0, 64, 48, 0.8, DOG)]

    async def run(plan: CrashAt) -> None:
        yard = make_yard()
        yard.inference.sees = list(sees)
        frame = yard.frame(jpeg)
        ports = {name: plan.wrap(getattr(yard, name)) for name in ("objects", "stream", "values")}
        try:
            await yard.detect(frame, **ports)
        except crash:
            await yard.detect(frame, attempt=2)
        await yard.work_off()
        alerts = yard.alerts()
        assert sorted(alert.label for alert in alerts) == ["car", "dog", "person"]
        assert len(yard.objects.contents) == 3
        for alert in alerts:
            row = await yard.alert_store.get(alert.alert_id)
            assert row is not None
            assert yard.objects.contents[row.alert.image_key or ""] == jpeg

    assert await at_every_step(run) == 2 * (1 + 3 * 2 + 4)  # read; get and swap; facts and job


async def test_a_frame_that_was_done_and_removed_before_is_done(yard: Yard, jpeg: bytes) -> None:
    frame = yard.frame(jpeg)
    await yard.detect(frame)
    await yard.work_off()
    assert yard.objects.contents == {}
    await yard.detect(frame, attempt=2)
    assert yard.counted() == {"frames": 1}


@pytest.mark.parametrize("sees", [[], [(0, 0, 64, 48, 0.9, PERSON)]])
async def test_a_frame_whose_last_word_was_lost_in_a_sick_queue_is_done_when_it_runs_again(
    yard: Yard, jpeg: bytes, sees: list[tuple[float, ...]]
) -> None:
    """The worker runs it again under the same attempt: a sick backend spends none."""
    yard.inference.sees = sees
    frame = yard.frame(jpeg)

    class Deaf:
        """Stores what it is given, and its answer is lost."""

        async def publish(self, subject: str, message: Any, *, message_id: str) -> None:
            await yard.stream.publish(subject, message, message_id=message_id)
            raise Unavailable("queue", "the connection broke")

    with pytest.raises(Unavailable):
        await yard.detect(frame, stream=Deaf())
    await asyncio.sleep(0)  # what was published side by side
    await yard.work_off()
    assert frame.key not in yard.objects.contents
    await yard.detect(frame, attempt=1)
    assert len(yard.alerts()) == len(sees)


async def test_a_frame_that_never_was_is_a_dead_letter_at_its_first_look(yard: Yard) -> None:
    for key in ("frames/gate/never.jpg", "cctv/never.jpg"):
        with pytest.raises(NotFound) as caught:
            await yard.detect(Frame(key=key, captured_at=NOON))
        assert caught.value.code == "file_not_found"
    with pytest.raises(NotFound):
        await yard.detect(Frame(key="cctv/never.jpg", captured_at=NOON), attempt=2)


async def test_a_second_look_by_other_rules_takes_no_picture_away(yard: Yard, jpeg: bytes) -> None:
    yard.inference.sees = [(0, 0, 64, 48, 0.9, PERSON)]
    frame = yard.frame(jpeg)
    await yard.detect(frame)
    await yard.set_rules(labels=["car"])
    await yard.detect(frame, attempt=2)
    assert yard.discarded() == []
    await yard.work_off()
    assert list(yard.objects.contents.values()) == [jpeg]


async def test_what_had_to_wait_for_a_sick_queue_is_counted_once(yard: Yard, jpeg: bytes) -> None:
    yard.inference.sees = [(0, 0, 64, 48, 0.9, PERSON), (0, 0, 64, 48, 0.9, CUP)]
    frame = yard.frame(jpeg)
    yard.stream.sick = True
    with pytest.raises(Unavailable):
        await yard.detect(frame)
    assert yard.counted() == {}
    yard.stream.sick = False
    await yard.detect(frame)
    assert yard.counted() == {"frames": 1, "ignored.cup": 1}


@pytest.mark.parametrize("part", ["objects", "inference", "stream", "values"])
async def test_a_sick_backend_is_unavailable_and_nothing_is_told(
    yard: Yard, jpeg: bytes, part: str
) -> None:
    yard.inference.sees = [(0, 0, 64, 48, 0.9, PERSON)]
    frame = yard.frame(jpeg)
    getattr(yard, part).sick = True
    with pytest.raises(Unavailable):
        await yard.detect(frame)
    assert yard.tally.frames_in_hand("gate") == 0
    assert yard.alerts() == []
    getattr(yard, part).sick = False
    await yard.detect(frame)
    assert len(yard.alerts()) == 1


async def test_a_model_that_was_switched_in_looks_at_the_next_frame(
    yard: Yard, jpeg: bytes
) -> None:
    yard.inference.detectors["other"] = yard.inference.detector("other", ("dog", "person"))
    yard.inference.sees = [(0, 0, 64, 48, 0.9, 0)]
    await yard.detect(yard.frame(jpeg))
    await yard.values.switch("detect", "other")
    await yard.detect(yard.frame(jpeg))
    assert [(a.model, a.label) for a in yard.alerts()] == [
        ("nanodet-g-416", "person"), ("other", "dog"),
    ]  # fmt: skip


async def test_a_model_that_breaks_the_contract_is_refused_and_one_that_is_reloaded_is_read_anew(
    yard: Yard, jpeg: bytes
) -> None:
    good = yard.inference.detectors["nanodet-g-416"]
    broken = {"image": TensorSpec("FP32", (240, 320, 3))}
    yard.inference.detectors["nanodet-g-416"] = ServedModel(
        good.name, "4", good.parameters, broken, good.outputs
    )
    with pytest.raises((JobFailed, RequestError)) as caught:  # no retry can mend it
        await yard.detect(yard.frame(jpeg))
    assert caught.value.code == "model_contract"
    yard.inference.detectors["nanodet-g-416"] = good
    await yard.detect(yard.frame(jpeg))


class TestBacklog:
    """A camera that wants fresh frames only."""

    async def burst(self, yard: Yard, jpeg: bytes, count: int) -> list[Frame]:
        frames = [yard.frame(jpeg, seconds=n) for n in range(count)]
        for frame in frames:
            await yard.stream.publish(frame_subject("gate"), frame)
        return frames

    async def work(self, yard: Yard, frames: list[Frame], at_once: int) -> list[Frame]:
        """Handles the queue's frames from the oldest on; returns those that were looked at."""
        looked_at: list[Frame] = []
        for start in range(0, len(frames), at_once):
            some = frames[start : start + at_once]
            before = yard.counted().get("shed", 0)
            await asyncio.gather(*(yard.detect(frame) for frame in some))
            if yard.counted().get("shed", 0) - before == 0:
                looked_at += some
            for record in yard.stream.records("frames.gate")[: len(some)]:
                yard.stream.remove("frames", record.sequence)
        return looked_at

    async def test_all_frames_are_looked_at_unless_a_camera_asks_otherwise(
        self, yard: Yard, jpeg: bytes
    ) -> None:
        frames = await self.burst(yard, jpeg, 30)
        await self.work(yard, frames, 1)
        assert yard.counted() == {"frames": 30}

    @pytest.mark.parametrize("most", [1, 5, 29, 30, 100])
    async def test_the_oldest_are_shed_and_each_frame_is_counted_once(
        self, yard: Yard, jpeg: bytes, most: int
    ) -> None:
        await yard.set_rules(backlog="latest", max_waiting=most)
        frames = await self.burst(yard, jpeg, 30)
        looked_at = await self.work(yard, frames, 1)
        newest = min(30, most + 1)  # those waiting, and the one in hand
        assert looked_at == frames[-newest:]
        expected = {"frames": newest, "shed": 30 - newest}
        assert yard.counted() == {name: count for name, count in expected.items() if count}
        assert sorted(yard.discarded()) == sorted(frame.key for frame in frames)

    async def test_frames_in_hand_do_not_wait(self, yard: Yard, jpeg: bytes) -> None:
        await yard.set_rules(backlog="latest", max_waiting=2)
        frames = await self.burst(yard, jpeg, 10)
        with yard.tally.in_hand("gate"), yard.tally.in_hand("gate"):  # two others of ten
            for number in (0, 1):
                yard.stream.remove("frames", yard.stream.records("frames.gate")[number].sequence)
            await self.work(yard, frames[2:], 2)
        assert sum(yard.counted().values()) == 8

    async def test_what_is_shed_of_somebody_elses_stays_in_the_bucket(
        self, yard: Yard, jpeg: bytes
    ) -> None:
        await yard.set_rules(backlog="latest", max_waiting=1)
        yard.put("cctv/1.jpg", jpeg)
        await self.burst(yard, jpeg, 5)
        await yard.detect(Frame(key="cctv/1.jpg", captured_at=NOON))
        assert yard.counted() == {"shed": 1}
        assert yard.discarded() == []

    async def test_a_frame_shed_twice_counts_once(self, yard: Yard, jpeg: bytes) -> None:
        await yard.set_rules(backlog="latest", max_waiting=1)
        (oldest, *_) = await self.burst(yard, jpeg, 5)
        await yard.detect(oldest)
        await yard.detect(oldest, attempt=2)
        assert yard.counted() == {"shed": 1}

    async def test_another_cameras_backlog_sheds_nothing(self, yard: Yard, jpeg: bytes) -> None:
        await yard.set_rules("door", backlog="latest", max_waiting=1)
        await self.burst(yard, jpeg, 20)
        await yard.detect(yard.frame(jpeg, camera_id="door"), camera_id="door")
        assert yard.counted("door") == {"frames": 1}


async def test_the_pixels_that_the_model_gets_are_the_pictures(
    yard: Yard, picture: Picture
) -> None:
    await yard.detect(yard.frame(picture(320, 240, ".png")))
    (pixels,) = yard.inference.looked_at
    x, y = np.meshgrid(np.arange(320) % 256, np.arange(240) % 256)
    assert (pixels == np.stack([x, y, np.full_like(x, 90)], axis=2)).all()
