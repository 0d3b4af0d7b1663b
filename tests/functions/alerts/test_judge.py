"""Which detections become alerts: labels, least score, zones, cooldown."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from functions._kit.fakes import FakeKeyValue
from functions._kit.ports import Entry
from functions.alerts._judge import REMEMBERED, Recent, contains, take_cooldown
from functions.alerts.contracts import COOLDOWNS, cooldown_key

if TYPE_CHECKING:
    from functions.alerts.contracts import Alert, Frame
    from tests.functions.alerts.conftest import Yard

NOON = datetime(2026, 5, 4, 12, 0, 0, tzinfo=UTC)
PERSON, CAR, DOG, CUP = range(4)
SQUARE = [(0.2, 0.2), (0.8, 0.2), (0.8, 0.8), (0.2, 0.8)]
HORSESHOE = [
    (0.1, 0.1), (0.9, 0.1), (0.9, 0.9), (0.7, 0.9), (0.7, 0.3), (0.3, 0.3), (0.3, 0.9), (0.1, 0.9),
]  # fmt: skip
WHOLE = [(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)]


def standing_at(x: float, y: float, score: float = 0.9, label: int = PERSON) -> tuple[float, ...]:
    """A row whose object has the middle of its lower edge at (x, y), fractions."""
    width, height = 0.1 * 320, min(0.2, y) * 240
    return (x * 320 - width / 2, y * 240 - height, width, height, score, label)


@pytest.mark.parametrize("polygon", [SQUARE, SQUARE[::-1], [*SQUARE, SQUARE[0]]])
@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        (0.5, 0.5, True),
        (0.1, 0.5, False),
        (0.9, 0.5, False),
        (0.5, 0.1, False),
        (0.5, 0.9, False),
        (0.2, 0.5, True),  # edges and corners count
        (0.8, 0.5, True),
        (0.5, 0.2, True),
        (0.5, 0.8, True),
        (0.2, 0.2, True),
        (0.8, 0.8, True),
        (0.1, 0.2, False),  # on the line of an edge, beyond its end
        (0.9, 0.8, False),
        (0.2, 0.9, False),
    ],
)
def test_a_point_is_inside_or_on_the_edge(
    polygon: list[tuple[float, float]], x: float, y: float, *, expected: bool
) -> None:
    assert contains(polygon, x, y) is expected


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        (0.2, 0.8, True),
        (0.5, 0.2, True),
        (0.8, 0.8, True),
        (0.5, 0.8, False),  # between the arms
        (0.5, 0.3, True),
        (0.3, 0.6, True),
        (0.5, 0.30001, False),
        (0.95, 0.2, False),
    ],
)
def test_a_concave_zone_leaves_out_what_it_leaves_out(
    x: float, y: float, *, expected: bool
) -> None:
    assert contains(HORSESHOE, x, y) is expected


def test_contains_agrees_with_a_grid_of_cells() -> None:
    """Polygons of unit cells, against the set of their cells."""
    chance = random.Random(7)
    for _ in range(50):
        # a skyline: columns of some height, side by side, is a concave polygon
        heights = [chance.randint(1, 9) for _ in range(8)]
        polygon: list[tuple[float, float]] = [(0.0, 0.0)]
        for column, height in enumerate(heights):
            polygon += [(column / 10, height / 10), ((column + 1) / 10, height / 10)]
        polygon.append((0.8, 0.0))
        for column in range(10):
            for row in range(10):
                inside = column < 8 and row < heights[column]
                assert contains(polygon, (column + 0.5) / 10, (row + 0.5) / 10) is inside


async def test_an_object_counts_by_the_middle_of_its_lower_edge(yard: Yard, jpeg: bytes) -> None:
    await yard.set_rules(zones=[{"name": "door", "polygon": SQUARE}], cooldown_seconds=0)
    yard.inference.sees = [
        standing_at(0.5, 0.5),
        standing_at(0.5, 0.9),  # its head is in the zone, its feet are not
        standing_at(0.5, 0.25),  # its feet are in the zone, its head is not
        standing_at(0.1, 0.5),  # its right arm is in the zone
    ]
    await yard.detect(yard.frame(jpeg))
    feet = [alert.box.y + alert.box.height for alert in yard.alerts()]
    assert feet == pytest.approx([0.5, 0.25])
    assert {alert.zone for alert in yard.alerts()} == {"door"}
    assert yard.counted() == {"frames": 1, "ignored.person": 2}


async def test_every_lower_edge_on_a_zones_edge_counts(yard: Yard, jpeg: bytes) -> None:
    """Whatever the box's height: its lower edge is a sum, and sums of floats miss their mark."""
    await yard.set_rules(
        zones=[{"name": "below", "polygon": [(0, 0.8), (1, 0.8), (1, 1), (0, 1)]}],
        cooldown_seconds=0,
    )
    rows = [(100, y, 50, 192 - y, 0.9, PERSON) for y in range(1, 100)]
    yard.inference.sees = [tuple(map(float, row)) for row in rows]
    await yard.detect(yard.frame(jpeg))
    assert len(yard.alerts()) == 99


@pytest.mark.parametrize("top", [0, 10, 100, 200, 230, 236.3])
async def test_an_object_cut_off_below_stands_on_the_edge_of_its_zone(
    yard: Yard, jpeg: bytes, top: float
) -> None:
    await yard.set_rules(zones=[{"name": "all", "polygon": WHOLE}])
    yard.inference.sees = [(100, top, 50, 300, 0.9, PERSON)]
    await yard.detect(yard.frame(jpeg))
    assert [alert.zone for alert in yard.alerts()] == ["all"]


async def test_an_object_in_two_zones_is_an_alert_in_each(yard: Yard, jpeg: bytes) -> None:
    left = [(0, 0), (0.6, 0), (0.6, 1), (0, 1)]
    right = [(0.4, 0), (1, 0), (1, 1), (0.4, 1)]
    zones = [{"name": "left", "polygon": left}, {"name": "right", "polygon": right}]
    await yard.set_rules(zones=zones)
    yard.inference.sees = [standing_at(0.5, 0.5), standing_at(0.9, 0.5, 0.8, CAR)]
    await yard.detect(yard.frame(jpeg))
    alerts = yard.alerts()
    assert [(a.label, a.zone) for a in alerts] == [
        ("person", "left"), ("person", "right"), ("car", "right"),
    ]  # fmt: skip
    assert len({alert.alert_id for alert in alerts}) == 3
    (job,) = yard.keep_jobs()
    assert list(job.alerts) == alerts


async def test_labels_and_score_decide_and_the_rest_is_counted(yard: Yard, jpeg: bytes) -> None:
    await yard.set_rules(labels=["cup", "person"], min_score=0.6, cooldown_seconds=0)
    yard.inference.sees = [
        standing_at(0.5, 0.5, 0.9, CAR),
        standing_at(0.5, 0.5, 0.8, CAR),
        standing_at(0.5, 0.5, 0.61, CUP),
        standing_at(0.5, 0.5, 0.59, CUP),
        standing_at(0.5, 0.5, 0.58, PERSON),
    ]
    await yard.detect(yard.frame(jpeg))
    assert [alert.label for alert in yard.alerts()] == ["cup"]
    expected = {"frames": 1, "ignored.car": 2, "ignored.cup": 1, "ignored.person": 1}
    assert yard.counted() == expected


async def test_no_labels_make_no_alerts(yard: Yard, jpeg: bytes) -> None:
    await yard.set_rules(labels=[], min_score=0)
    yard.inference.sees = [standing_at(0.5, 0.5)]
    await yard.detect(yard.frame(jpeg))
    assert yard.alerts() == []


async def test_other_cameras_rules_are_theirs(yard: Yard, jpeg: bytes) -> None:
    await yard.set_rules("door", labels=["cup"])
    yard.inference.sees = [standing_at(0.5, 0.5)]
    await yard.detect(yard.frame(jpeg))
    await yard.detect(yard.frame(jpeg, camera_id="door"), camera_id="door")
    assert [alert.camera_id for alert in yard.alerts()] == ["gate"]


class TestCooldown:
    """Ten seconds, unless a test says otherwise."""

    async def look(self, yard: Yard, jpeg: bytes, *seconds: float, **options: Any) -> list[Frame]:
        yard.inference.sees = yard.inference.sees or [standing_at(0.5, 0.5)]
        frames = [yard.frame(jpeg, seconds=at) for at in seconds]
        for frame in frames:
            await yard.detect(frame, **options)
        return frames

    def moments(self, yard: Yard) -> list[float]:
        """When alerts were captured, in seconds after noon, as they were told."""
        return [(alert.captured_at - NOON).total_seconds() for alert in yard.alerts()]

    async def test_after_an_alert_its_kind_is_quiet(self, yard: Yard, jpeg: bytes) -> None:
        frames = await self.look(yard, jpeg, 0, 1, 9.999, 10, 15, 19.999, 20)
        assert self.moments(yard) == [0, 10, 20]
        assert yard.counted() == {"frames": 7, "cooled.person": 4}
        cooled = [frames[number].key for number in (1, 2, 4, 5)]
        assert yard.discarded() == cooled

    async def test_cooldown_is_of_camera_label_and_zone(self, yard: Yard, jpeg: bytes) -> None:
        left = {"name": "left", "polygon": [(0, 0), (0.5, 0), (0.5, 1), (0, 1)]}
        right = {"name": "right", "polygon": [(0.5, 0), (1, 0), (1, 1), (0.5, 1)]}
        for camera_id in ("gate", "door"):
            await yard.set_rules(camera_id, zones=[left, right])
        seen = [
            ("gate", standing_at(0.2, 0.5)),
            ("gate", standing_at(0.8, 0.5)),
            ("gate", standing_at(0.2, 0.5, label=DOG)),
            ("door", standing_at(0.2, 0.5)),
        ]
        for _ in range(2):
            for camera_id, row in seen:
                yard.inference.sees = [row]
                await yard.detect(yard.frame(jpeg, camera_id=camera_id), camera_id=camera_id)
        assert [(a.camera_id, a.label, a.zone) for a in yard.alerts("events.alert.*")] == [
            ("gate", "person", "left"), ("gate", "person", "right"),
            ("gate", "dog", "left"), ("door", "person", "left"),
        ]  # fmt: skip
        assert yard.counted("door") == {"frames": 2, "cooled.person": 1}

    async def test_of_several_objects_the_surest_is_the_alert(
        self, yard: Yard, jpeg: bytes
    ) -> None:
        yard.inference.sees = [standing_at(0.2 * n, 0.5, 0.9 - n / 10) for n in (1, 2, 3)]
        await self.look(yard, jpeg, 0)
        assert [alert.score for alert in yard.alerts()] == [pytest.approx(0.8)]
        assert yard.counted() == {"frames": 1, "cooled.person": 2}

    async def test_without_cooldown_every_object_is_an_alert(self, yard: Yard, jpeg: bytes) -> None:
        await yard.set_rules(cooldown_seconds=0)
        yard.inference.sees = [standing_at(0.2 * n, 0.5) for n in (1, 2, 3)]
        await self.look(yard, jpeg, 0, 0, 1)
        assert len({alert.alert_id for alert in yard.alerts()}) == 9
        assert yard.counted() == {"frames": 3}
        assert yard.values.buckets[COOLDOWNS] == {}

    async def test_a_late_frame_is_held_against_alerts_after_it(
        self, yard: Yard, jpeg: bytes
    ) -> None:
        await self.look(yard, jpeg, 100, 91, 90, 109, 110)
        assert self.moments(yard) == [100, 90, 110]

    async def test_two_late_frames_are_held_against_each_other(
        self, yard: Yard, jpeg: bytes
    ) -> None:
        await self.look(yard, jpeg, 100, 50, 52, 48)
        assert self.moments(yard) == [100, 50]

    async def test_a_frame_that_was_cooled_stays_cooled_when_it_comes_again(
        self, yard: Yard, jpeg: bytes
    ) -> None:
        _, cooled, _ = await self.look(yard, jpeg, 0, 5, 20)
        await yard.detect(cooled, attempt=2)
        assert self.moments(yard) == [0, 20]

    async def test_an_alert_is_made_again_when_its_frame_comes_again(
        self, yard: Yard, jpeg: bytes
    ) -> None:
        first, *_ = await self.look(yard, jpeg, 0, 20, 40)
        yard.stream.forget("events.>")
        await yard.detect(first, attempt=2)
        assert self.moments(yard) == [0]

    async def test_frames_in_any_order_make_alerts_apart_and_leave_no_gap(
        self, make_yard: Callable[[], Yard], jpeg: bytes
    ) -> None:
        """However they come, and come again: none within 10 s of another, none missing."""
        for seed in range(10):
            chance = random.Random(seed)
            yard = make_yard()
            moments = sorted(chance.uniform(0, 120) for _ in range(40))
            frames = await self.look(yard, jpeg)
            frames = [yard.frame(jpeg, seconds=at) for at in moments]
            order = chance.choices(frames, k=40) + chance.sample(frames, k=40)
            for frame in order:
                await yard.detect(frame, attempt=2)
            found = sorted(self.moments(yard))
            assert all(later - earlier >= 10 for earlier, later in pairwise(found)), seed
            for at in moments:
                assert any(abs(at - alert) < 10 for alert in found), seed

    async def test_memory_is_bounded_and_what_is_older_is_let_through(self) -> None:
        values = FakeKeyValue()
        for number in range(REMEMBERED + 10):
            at = NOON + timedelta(seconds=20 * number)
            assert await take_cooldown(values, "k", at=at, seconds=10, alert_id=str(number))
        recent = msgspec.json.decode(values.buckets[COOLDOWNS]["k"].value, type=Recent)
        assert len(recent.alerts) == REMEMBERED
        assert await take_cooldown(values, "k", at=NOON, seconds=10, alert_id="old")
        kept = msgspec.json.decode(values.buckets[COOLDOWNS]["k"].value, type=Recent)
        assert [last.alert_id for last in kept.alerts[:-1]] == [
            last.alert_id for last in recent.alerts[1:]
        ]
        assert kept.alerts[-1].alert_id == "old"

    async def test_late_frames_beyond_all_that_is_remembered_are_held_against_each_other(
        self,
    ) -> None:
        values = FakeKeyValue()
        for number in range(REMEMBERED + 8):
            at = NOON + timedelta(hours=1, seconds=20 * number)
            assert await take_cooldown(values, "k", at=at, seconds=10, alert_id=f"live {number}")
        made = [
            second
            for second in range(100)
            if await take_cooldown(
                values,
                "k",
                at=NOON + timedelta(seconds=second),
                seconds=10,
                alert_id=f"late {second}",
            )
        ]
        assert made == list(range(0, 100, 10))

    async def test_of_many_workers_one_makes_the_alert(self, yard: Yard, jpeg: bytes) -> None:
        yard.inference.sees = [standing_at(0.5, 0.5)]
        frames = [yard.frame(jpeg, seconds=n / 10) for n in range(20)]
        racing = Racing(yard.values, len(frames))
        await asyncio.gather(*(yard.detect(frame, values=racing) for frame in frames))
        assert len(yard.alerts()) == 1
        assert racing.lost == 19
        assert yard.counted() == {"frames": 20, "cooled.person": 19}


class Racing(FakeKeyValue):
    """The values of many workers, each of which has read before the first one writes."""

    def __init__(self, values: FakeKeyValue, workers: int) -> None:
        super().__init__()  # a live copy that has seen nothing yet
        self._values = values
        self._have_read = asyncio.Barrier(workers)
        self._reading = workers
        self.lost = 0

    async def get(self, bucket: str, key: str) -> Entry | None:
        entry = await self._values.get(bucket, key)
        if self._reading:
            self._reading -= 1
            await self._have_read.wait()
        return entry

    async def swap(self, bucket: str, key: str, value: bytes, *, revision: int) -> bool:
        is_taken = await self._values.swap(bucket, key, value, revision=revision)
        self.lost += not is_taken
        return is_taken


def test_the_key_of_a_cooldown_holds_any_text(new_alert: Callable[..., Alert]) -> None:
    keys = {
        cooldown_key(new_alert(label=label, zone=zone))
        for label in ("person", "a.b *>", "ÿ" * 100)
        for zone in (None, "None!", "left\n", "x" * 64)
    }
    assert len(keys) == 12
    assert all(key.startswith("gate.") and len(key) == 37 for key in keys)
