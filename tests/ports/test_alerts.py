"""One suite over the fake and over a real PostgreSQL: what `AlertStore` promises."""

from __future__ import annotations

import asyncio
import base64
import itertools
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta, timezone
from functools import partial

import msgspec
import psycopg
import pytest
import pytest_asyncio

from functions._kit.cursors import CURSOR_LENGTH
from functions._kit.errors import RequestError, Unavailable
from functions._kit.fakes import FakeAlertStore
from functions._kit.messages import new_id
from functions._kit.ports import AlertFilter, AlertStore, HourCount
from functions.alerts.contracts import Alert, AlertRow, Box, Counts, image_key
from gateway.adapters.tables import AlertTable, Database, open_database
from tests.ports.conftest import Gone

BEGAN = datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC)
LATER = BEGAN + timedelta(days=1)
EVERY = AlertFilter()
SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)


@pytest.fixture(params=["fake", "postgres"])
def address(request: pytest.FixtureRequest) -> str | None:
    """Where the real database is; None for the fake."""
    return str(request.getfixturevalue("database_url")) if request.param == "postgres" else None


@pytest_asyncio.fixture
async def store(address: str | None) -> AsyncIterator[AlertStore]:
    if address is None:
        yield FakeAlertStore()
        return
    async with open_database(address) as database:
        yield AlertTable(database)


def alert(camera_id: str = "door", second: float = 0, **facts: object) -> Alert:
    """An alert captured so many seconds after the beginning, its image not kept yet."""
    captured_at = BEGAN + second * SECOND
    fields = {
        "alert_id": new_id(),
        "label": "person",
        "score": 0.75,
        "box": Box(x=0.1, y=0.2, width=0.3, height=0.4),
        "captured_at": captured_at,
        "created_at": captured_at + SECOND,
        "model": "nanodet-g-416",
        "model_version": "1",
        "frame_key": f"frames/{camera_id}/{new_id()}.jpg",
        "frame_bytes": 3 << 30,
    }
    return Alert(camera_id=camera_id, **(fields | facts))  # type: ignore[arg-type]


def kept(of: Alert) -> Alert:
    """The same alert, its image kept."""
    return msgspec.structs.replace(of, image_key=image_key(of))


def newest_first(alerts: Sequence[Alert]) -> list[str]:
    ordered = sorted(alerts, key=lambda a: (a.captured_at, a.alert_id), reverse=True)
    return [one.alert_id for one in ordered]


async def row_of(store: AlertStore, of: Alert) -> AlertRow:
    row = await store.get(of.alert_id)
    assert row is not None
    return row


async def page_ids(
    store: AlertStore, wanted: AlertFilter = EVERY, *, cursor: str | None = None, limit: int = 200
) -> tuple[list[str], str | None]:
    page = await store.page(wanted, cursor=cursor, limit=limit)
    return [row.alert.alert_id for row in page.rows], page.next_cursor


async def all_ids(store: AlertStore, wanted: AlertFilter = EVERY, *, limit: int = 7) -> list[str]:
    read, cursor = await page_ids(store, wanted, limit=limit)
    while cursor is not None:
        more, cursor = await page_ids(store, wanted, cursor=cursor, limit=limit)
        read += more
    return read


# Recording


async def test_an_alert_is_kept_with_all_its_facts(store: AlertStore) -> None:
    whole = alert(
        "Yard_2-x",
        0.000_001,
        label="träffic 'light\"",
        score=0.1 + 0.2,
        zone="gate \\ ünd \u2028",
        box=Box(x=1 / 3, y=1e-17, width=2 / 3, height=0.999_999_999_999),
        image_key="alerts/x.jpg",
        frame_key="uploads/alice/ä b.jpg",
    )
    bare = alert()
    await store.record([whole, bare])
    assert await row_of(store, whole) == AlertRow(alert=whole, reviewed=False)
    assert await row_of(store, bare) == AlertRow(alert=bare, reviewed=False)


async def test_moments_are_utc_whatever_zone_they_came_in(store: AlertStore) -> None:
    local = BEGAN.astimezone(timezone(timedelta(hours=5, minutes=30)))
    given = alert(captured_at=local, created_at=local)
    await store.record([given])
    row = await row_of(store, given)
    assert (row.alert.captured_at, row.alert.created_at) == (BEGAN, BEGAN)
    assert row.alert.captured_at.utcoffset() == timedelta(0)


async def test_an_unknown_alert_is_none(store: AlertStore) -> None:
    for strange in (new_id(), "", "no-id", "{" + new_id() + "}", "\0", "' OR TRUE --"):
        assert await store.get(strange) is None
        assert await store.review(strange, reviewed=True) is None


async def test_no_order_of_facts_loses_an_image_or_changes_an_alert(store: AlertStore) -> None:
    """Fact, repeated fact, fact with image, one with another image: one by one, and in batches."""
    for order in itertools.permutations(range(4)):
        for cut in range(5):
            fact = alert()
            later = msgspec.structs.replace(fact, score=0.1, created_at=LATER, label="cat")
            facts = [fact, later, kept(fact), msgspec.structs.replace(later, image_key="other")]
            drawn = [facts[n] for n in order]
            await store.record(drawn[:cut])
            await store.record(drawn[cut:])
            first_image = next(one.image_key for one in drawn if one.image_key is not None)
            expected = msgspec.structs.replace(drawn[0], image_key=first_image)
            assert (await row_of(store, fact)).alert == expected, (order, cut)


async def test_repeated_alerts_change_nothing(store: AlertStore) -> None:
    batch = [alert(second=n) for n in range(10)]
    images = [kept(one) for one in batch[:5]]
    await store.record(batch)
    await store.record(images)
    await store.review(batch[0].alert_id, reviewed=True)
    before = await store.page(EVERY, cursor=None, limit=50)
    for again in (batch, images, batch + images, images + batch, batch + batch):
        await store.record(again)
        assert await store.page(EVERY, cursor=None, limit=50) == before
    assert len(before.rows) == 10


async def test_a_thousand_alerts_are_written_at_once(store: AlertStore) -> None:
    batch = [alert(f"camera-{n % 7}", n) for n in range(1000)]
    random.Random(1).shuffle(batch)
    await store.record(batch)
    assert await all_ids(store, limit=333) == newest_first(batch)


async def test_nothing_to_record_is_no_error(store: AlertStore) -> None:
    await store.record([])
    await store.record_counts([])
    await store.forget([])
    assert await store.waiting_for([]) == frozenset()
    assert await store.cameras() == []


async def test_text_that_postgresql_cannot_hold_stops_no_recorder(store: AlertStore) -> None:
    odd = alert(label="odd\0label", zone="a NUL \0, \\\0 and \\u0000 spelt out")
    even = alert()
    await store.record([odd, even])
    row = await row_of(store, odd)
    assert row.alert.label.startswith("odd")
    assert row.alert.label.endswith("label")
    assert row.alert.zone is not None
    assert row.alert.zone.endswith(" and \\u0000 spelt out")
    assert await all_ids(store, AlertFilter(label="odd\0label")) == [odd.alert_id]
    assert (await row_of(store, even)).alert == even
    await store.record_counts([count(5, name="ignored.\0")])
    found = await store.camera_counts("door", since=BEGAN - HOUR, until=LATER)
    assert [sum(names.values()) for names in found.values()] == [5]


async def test_recorders_side_by_side_neither_wait_for_ever_nor_lose(store: AlertStore) -> None:
    alerts = [alert(second=n) for n in range(60)]

    async def recorder(seed: int) -> None:
        draw = random.Random(seed)
        for _ in range(10):
            batch = [draw.choice([one, kept(one)]) for one in alerts]
            draw.shuffle(batch)
            await store.record(batch)

    async with asyncio.timeout(120):
        await asyncio.gather(*(recorder(seed) for seed in range(6)))
    page = await store.page(EVERY, cursor=None, limit=200)
    assert [row.alert for row in page.rows] == [kept(one) for one in reversed(alerts)]


# Pages


async def test_pages_are_newest_first_and_equal_moments_by_id(store: AlertStore) -> None:
    alerts = [alert(second=n // 10) for n in range(40)]
    await store.record(alerts)
    for limit in (1, 3, 10, 39, 40, 41):
        assert await all_ids(store, limit=limit) == newest_first(alerts)


@pytest.mark.parametrize(("number", "limit"), [(0, 5), (4, 5), (5, 5), (6, 5)])
async def test_the_last_page_has_no_cursor(store: AlertStore, number: int, limit: int) -> None:
    alerts = [alert(second=n) for n in range(number)]
    await store.record(alerts)
    read, cursor = await page_ids(store, limit=limit)
    assert read == newest_first(alerts)[:limit]
    assert (cursor is None) == (number <= limit)


@pytest.mark.parametrize("seed", range(8))
async def test_no_row_is_shown_twice_or_missed_while_others_come(
    store: AlertStore, seed: int
) -> None:
    """Between pages come alerts newer, older, and of the very moments that are there already."""
    draw = random.Random(seed)

    def some(most: int) -> list[Alert]:
        seconds = [draw.choice([draw.randint(-20, 20), draw.random()]) for _ in range(most)]
        return [alert(draw.choice(["door", "yard"]), second) for second in seconds]

    wanted = draw.choice([EVERY, AlertFilter(camera_id="door")])
    first = some(60)
    await store.record(first)
    read, cursor = await page_ids(store, wanted, limit=draw.randint(1, 9))
    added: list[Alert] = []
    while cursor is not None:
        fresh = some(3 if len(added) < 90 else 0)
        await store.record([*fresh, *draw.sample(first, 5)])
        added += fresh
        more, cursor = await page_ids(store, wanted, cursor=cursor, limit=draw.randint(1, 9))
        read += more
    assert len(read) == len(set(read))
    there = [one for one in first if wanted.camera_id in {None, one.camera_id}]
    ids = {one.alert_id for one in there}
    assert [one for one in read if one in ids] == newest_first(there)
    by_id = {one.alert_id: one for one in first + added}
    assert read == newest_first([by_id[one] for one in read])


@pytest.mark.parametrize("seed", range(6))
async def test_filters_alone_and_together_show_what_they_say(store: AlertStore, seed: int) -> None:
    draw = random.Random(seed)
    alerts = [
        alert(
            draw.choice(["door", "yard", "Door"]),
            draw.randrange(30),
            label=draw.choice(["person", "car", "cat"]),
            score=draw.choice([0.25, 0.5, 0.7, 0.9]),
        )
        for _ in range(120)
    ]
    await store.record(alerts)
    reviewed = {one.alert_id for one in draw.sample(alerts, 40)}
    for alert_id in reviewed:
        await store.review(alert_id, reviewed=True)
    choices: dict[str, list[object]] = {
        "camera_id": ["door", "Door", "nowhere"],
        "label": ["person", "cat"],
        "min_score": [0.0, 0.5, 0.7000001, 1.0],
        "since": [BEGAN + 5 * SECOND, BEGAN + 12.5 * SECOND],
        "until": [BEGAN + 10 * SECOND, BEGAN + 25 * SECOND],
        "reviewed": [True, False],
    }
    alone = [{name: value} for name, values in choices.items() for value in values]
    together = [
        {
            name: draw.choice(choices[name])
            for name in draw.sample(sorted(choices), draw.randint(2, 6))
        }
        for _ in range(20)
    ]
    for given in alone + together:
        wanted = AlertFilter(**given)  # type: ignore[arg-type]
        expected = [
            one
            for one in alerts
            if wanted.camera_id in {None, one.camera_id}
            and wanted.label in {None, one.label}
            and (wanted.min_score is None or one.score >= wanted.min_score)
            and (wanted.since is None or one.captured_at >= wanted.since)
            and (wanted.until is None or one.captured_at < wanted.until)
            and wanted.reviewed in {None, one.alert_id in reviewed}
        ]
        assert await all_ids(store, wanted, limit=11) == newest_first(expected), given
        counted = Counter((one.camera_id, one.label) for one in expected)
        hours = [
            HourCount(BEGAN.replace(minute=0, second=0, microsecond=0), *what, number)
            for what, number in sorted(counted.items())
        ]
        assert await store.counts(wanted) == hours, given


@pytest.mark.parametrize("strange", ["", "%", "' OR TRUE --", "no\0such", "DOOR", "door "])
async def test_a_filter_is_taken_literally(store: AlertStore, strange: str) -> None:
    await store.record([alert()])
    assert await page_ids(store, AlertFilter(camera_id=strange)) == ([], None)
    assert await page_ids(store, AlertFilter(label=strange)) == ([], None)


@pytest.mark.parametrize(
    "cursor",
    [
        *("", "nonsense", "\0", "ä" * CURSOR_LENGTH, "A" * (CURSOR_LENGTH - 1)),
        *("A" * (CURSOR_LENGTH + 4), "A" * (CURSOR_LENGTH - 1) + "\n", "A" * 31 + " ", "+" * 32),
        base64.urlsafe_b64encode(b"\x7f" + b"\xff" * 23).decode(),
        base64.urlsafe_b64encode(b"\x80" + b"\x00" * 23).decode(),
    ],
)
async def test_a_cursor_that_we_never_gave_is_refused(store: AlertStore, cursor: str) -> None:
    await store.record([alert()])
    with pytest.raises(RequestError) as caught:
        await page_ids(store, cursor=cursor)
    assert (caught.value.code, caught.value.field) == ("invalid_cursor", "cursor")


async def test_a_cursor_is_opaque_and_needs_no_escape_in_a_url(store: AlertStore) -> None:
    await store.record([alert(second=n) for n in range(40)])
    _, cursor = await page_ids(store, limit=1)
    while cursor is not None:
        assert len(cursor) == CURSOR_LENGTH
        assert cursor.replace("-", "").replace("_", "").isalnum()
        _, cursor = await page_ids(store, cursor=cursor, limit=1)


async def test_an_alert_is_reviewed_and_not(store: AlertStore) -> None:
    mine, other = alert(), alert()
    await store.record([mine, other])
    seen = AlertRow(alert=mine, reviewed=True)
    assert await store.review(mine.alert_id, reviewed=True) == seen
    assert await store.review(mine.alert_id, reviewed=True) == seen
    assert await row_of(store, mine) == seen
    assert not (await row_of(store, other)).reviewed
    await store.record([kept(mine)])
    assert await row_of(store, mine) == AlertRow(alert=kept(mine), reviewed=True)
    again = await store.review(mine.alert_id, reviewed=False)
    assert again == await row_of(store, mine) == AlertRow(alert=kept(mine), reviewed=False)


# Counts


async def test_alerts_are_counted_by_hours_of_utc_over_midnight(store: AlertStore) -> None:
    midnight = datetime(2026, 3, 1, tzinfo=UTC)
    india = timezone(timedelta(hours=5, minutes=30))
    moments = [
        midnight - timedelta(microseconds=1),
        midnight,
        (midnight + timedelta(minutes=59)).astimezone(india),
        midnight + HOUR,
        datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC),
    ]
    await store.record([alert(captured_at=moment) for moment in moments])
    await store.record(
        [alert("attic", captured_at=midnight, label=name) for name in ("dog", "Cat")]
    )
    counted = await store.counts(EVERY)
    assert counted == [
        HourCount(datetime(1969, 12, 31, 23, tzinfo=UTC), "door", "person", 1),
        HourCount(midnight - HOUR, "door", "person", 1),
        HourCount(midnight, "attic", "Cat", 1),
        HourCount(midnight, "attic", "dog", 1),
        HourCount(midnight, "door", "person", 2),
        HourCount(midnight + HOUR, "door", "person", 1),
    ]
    assert {one.hour.utcoffset() for one in counted} == {timedelta(0)}
    local = AlertFilter(since=midnight.astimezone(india), until=(midnight + HOUR).astimezone(india))
    assert await store.counts(local) == counted[2:5]


def count(number: int, **facts: object) -> Counts:
    hour = BEGAN.replace(minute=0, second=0, microsecond=0)
    fields = {"source": "a", "camera_id": "door", "hour": hour, "name": "frames"} | facts
    return Counts(count=number, **fields)  # type: ignore[arg-type]


async def frames(store: AlertStore) -> int:
    found = await store.camera_counts("door", since=BEGAN - HOUR, until=LATER)
    return sum(names.get("frames", 0) for names in found.values())


@pytest.mark.parametrize("seed", range(5))
async def test_counts_never_fall_in_any_order_and_add_up_over_processes(
    store: AlertStore, seed: int
) -> None:
    draw = random.Random(seed)
    told = [count(n, source=source) for source in "abc" for n in range(1, 20)]
    told += draw.sample(told, 20)
    draw.shuffle(told)
    seen, best = 0, dict.fromkeys("abc", 0)
    while told:
        batch, told = told[: draw.randint(1, 9)], told[9:]
        await store.record_counts(batch)
        for one in batch:
            best[one.source] = max(best[one.source], one.count)
        now = await frames(store)
        assert now >= seen
        assert now == sum(best.values())
        seen = now


async def test_counts_of_a_camera_are_by_hour_and_name(store: AlertStore) -> None:
    hour = count(0).hour
    india = timezone(timedelta(hours=5, minutes=30))
    await store.record_counts(
        [
            *(count(7), count(2, source="b"), count(3, name="shed"), count(9, camera_id="yard")),
            count(1, hour=(hour + HOUR).astimezone(india), name="ignored.cat"),
            *(count(5, hour=hour - HOUR), count(6, hour=hour + 2 * HOUR)),
            count(1 << 40, name="cooled.dog"),
        ]
    )
    found = await store.camera_counts("door", since=hour, until=hour + 2 * HOUR)
    assert found == {
        hour: {"cooled.dog": 1 << 40, "frames": 9, "shed": 3},
        hour + HOUR: {"ignored.cat": 1},
    }
    assert list(found) == sorted(found)
    assert await store.camera_counts("nowhere", since=hour, until=LATER) == {}


async def test_processes_count_side_by_side(store: AlertStore) -> None:
    async def process(source: str) -> None:
        draw = random.Random(source)
        for number in range(1, 11):
            batch = [count(number, source=s, camera_id=c) for s in "abc" for c in ("door", "yard")]
            draw.shuffle(batch)
            await store.record_counts(batch)

    async with asyncio.timeout(120):
        await asyncio.gather(*(process(source) for source in "abcdef"))
    assert await frames(store) == 30


async def test_cameras_are_those_with_alerts_or_counts(store: AlertStore) -> None:
    await store.record([alert(camera, n) for n in range(3) for camera in ("b", "A", "a-1", "z_")])
    await store.record_counts([count(1, camera_id="B"), count(1, camera_id="a-1")])
    assert await store.cameras() == ["A", "B", "a-1", "b", "z_"]
    assert await store.expire("b", before=LATER, limit=10) == 3
    assert await store.cameras() == ["A", "B", "a-1", "z_"]


# Images and retention


async def test_retention_takes_small_steps_oldest_first(store: AlertStore) -> None:
    mine = [kept(alert(second=n // 2)) for n in range(10)]
    theirs = kept(alert("yard", -100))
    await store.record([*mine, theirs])
    limit_at = mine[8].captured_at
    left = newest_first([*mine, theirs])
    oldest = [one for one in reversed(left) if one != theirs.alert_id]
    for expected in (3, 3, 2, 0):
        assert await store.expire("door", before=limit_at, limit=3) == expected
        gone, oldest = oldest[:expected], oldest[expected:]
        left = [one for one in left if one not in gone]
        assert await all_ids(store) == left
    assert len(left) == 3


async def test_images_of_expired_alerts_are_told_until_they_are_removed(store: AlertStore) -> None:
    alerts = [kept(alert(second=n)) for n in range(5)]
    await store.record(alerts)
    assert await store.discarded(10) == []
    await store.expire("door", before=alerts[3].captured_at, limit=10)
    keys = sorted(image_key(one) for one in alerts[:3])
    assert await store.discarded(10) == keys
    assert await store.discarded(10) == keys
    assert await store.discarded(2) == keys[:2]
    await store.forget([keys[0], "no/such.jpg"])
    assert await store.discarded(10) == keys[1:]
    await store.forget(keys)
    assert await store.discarded(10) == []


async def test_an_image_is_discarded_once_however_often_its_alert_expires(
    store: AlertStore,
) -> None:
    one = kept(alert())
    for _ in range(2):
        await store.record([one])
        assert await store.expire("door", before=LATER, limit=10) == 1
    assert await store.discarded(10) == [one.image_key]


async def test_a_frame_of_ours_goes_with_its_last_alert_that_has_no_image(
    store: AlertStore,
) -> None:
    frame = "frames/door/f.jpg"
    pair = [alert(second=n, frame_key=frame) for n in range(2)]
    foreign = alert(second=2, frame_key="uploads/alice/frames/f.jpg")
    done = kept(alert(second=3, frame_key="frames/door/done.jpg"))
    await store.record([*pair, foreign, done])
    assert await store.expire("door", before=LATER, limit=1) == 1
    assert await store.discarded(10) == []
    assert await store.expire("door", before=LATER, limit=10) == 3
    assert await store.discarded(10) == sorted([frame, image_key(done)])


async def test_alerts_of_one_frame_that_expire_together_discard_it_once(store: AlertStore) -> None:
    await store.record([alert(second=n, frame_key="frames/door/f.jpg") for n in range(3)])
    assert await store.expire("door", before=LATER, limit=10) == 3
    assert await store.discarded(10) == ["frames/door/f.jpg"]


async def test_recorders_and_retention_never_wait_for_each_other_in_a_ring(
    store: AlertStore,
) -> None:
    """The oldest have the greatest ids, so that the two take the same rows in opposite orders."""
    alerts = [kept(alert(second=-n)) for n in range(300)]
    await store.record(alerts)
    expired = 0

    async def keep() -> None:
        for _ in range(12):
            await store.record(alerts)

    async def retain() -> None:
        nonlocal expired
        for _ in range(24):
            expired += await store.expire("door", before=LATER, limit=200)

    async with asyncio.timeout(120):
        await asyncio.gather(keep(), retain(), keep(), retain())
        while await store.expire("door", before=LATER, limit=200):
            pass
    assert expired >= 200
    assert await all_ids(store) == []
    assert await store.discarded(500) == sorted(image_key(one) for one in alerts)


async def test_two_retentions_at_once_take_each_alert_once(store: AlertStore) -> None:
    alerts = [kept(alert(second=n)) for n in range(90)]
    await store.record(alerts)

    async def retain() -> int:
        return sum([await store.expire("door", before=LATER, limit=10) for _ in range(20)])

    assert sum(await asyncio.gather(retain(), retain(), retain())) == 90
    assert await store.discarded(100) == sorted(image_key(one) for one in alerts)


async def test_alerts_without_image_are_told_oldest_first(store: AlertStore) -> None:
    alerts = [alert(second=-n, created_at=BEGAN + (n // 2) * SECOND) for n in range(8)]
    await store.record([*alerts[::-1], kept(alert(created_at=BEGAN - SECOND))])
    expected = sorted(alerts, key=lambda one: (one.created_at, one.alert_id))
    assert await store.without_image(before=LATER, limit=10) == expected
    assert await store.without_image(before=LATER, limit=3) == expected[:3]
    behind = await store.without_image(before=LATER, limit=3, after=expected[2])
    assert behind == expected[3:6]
    assert await store.without_image(before=LATER, limit=3, after=expected[-1]) == []
    assert await store.without_image(before=BEGAN + 2 * SECOND, limit=10) == expected[:4]
    await store.record([kept(alerts[0])])
    left = [one for one in expected if one is not alerts[0]]
    assert await store.without_image(before=LATER, limit=10) == left


async def test_a_frame_is_needed_until_the_last_image_of_it_is_kept(store: AlertStore) -> None:
    pair = [alert(frame_key="frames/door/f.jpg") for _ in range(2)]
    other = alert(frame_key="cam/ä'%.jpg")
    await store.record([*pair, other])
    asked = ["frames/door/f.jpg", "cam/ä'%.jpg", "frames/door/unknown.jpg", "frames/door/f.jpg"]
    assert await store.waiting_for(asked) == frozenset(asked[:2])
    assert await store.waiting_for(asked[2:3]) == frozenset()
    await store.record([kept(pair[0])])
    assert await store.waiting_for(asked) == frozenset(asked[:2])
    await store.record([kept(pair[1])])
    assert await store.waiting_for(asked) == frozenset(asked[1:2])


# The database itself


async def test_a_statement_that_fails_deletes_no_alert_without_noting_its_image(
    database_url: str,
) -> None:
    """Expiry is one transaction: what breaks its second half undoes the first."""
    async with open_database(database_url) as database:
        store = AlertTable(database)
        await store.record([kept(alert())])
        await database.fetch("ALTER TABLE discarded_images ADD CHECK (key = '') NOT VALID")
        with pytest.raises(psycopg.errors.CheckViolation):
            await store.expire("door", before=LATER, limit=10)
        assert len(await all_ids(store)) == 1
        await database.fetch(
            "ALTER TABLE discarded_images DROP CONSTRAINT discarded_images_key_check"
        )
        assert await store.expire("door", before=LATER, limit=10) == 1


async def test_what_is_recorded_outlives_the_process(database_url: str) -> None:
    one, gone = alert(), kept(alert("yard"))
    async with open_database(database_url) as database:
        await AlertTable(database).record([one, gone])
        await AlertTable(database).expire("yard", before=LATER, limit=1)
    async with open_database(database_url) as database:
        assert (await row_of(AlertTable(database), one)).alert == one
        assert await AlertTable(database).discarded(10) == [gone.image_key]


async def scans(database: Database) -> dict[str, int]:
    """How often each index of the alerts was read, and the table itself."""
    await database.fetch("SELECT pg_stat_force_next_flush()")
    found = await database.fetch(
        "SELECT indexrelname AS name, idx_scan AS scans FROM pg_stat_user_indexes "
        "UNION ALL SELECT relname, seq_scan FROM pg_stat_user_tables"
    )
    return {row["name"]: row["scans"] for row in found}


async def test_frequent_questions_read_an_index_and_not_the_table(database_url: str) -> None:
    async with open_database(database_url, max_connections=1) as database:
        store = AlertTable(database)
        labels = ["person", "car", "dog", "cat"]
        made = [alert(f"c-{n % 20}", n, label=labels[n % 3]) for n in range(20_000)]
        made = [kept(one) for one in made[:-50]] + made[-50:]
        for first in range(0, len(made), 5000):
            await store.record(made[first : first + 5000])
        await database.fetch("ANALYZE")
        last = made[-1].captured_at
        cursor = (await store.page(EVERY, cursor=None, limit=500)).next_cursor

        async def page(**wanted: object) -> object:
            return await store.page(AlertFilter(**wanted), cursor=cursor, limit=50)  # type: ignore[arg-type]

        questions: dict[str, list[Callable[[], Awaitable[object]]]] = {
            "alerts_by_time": [page, partial(page, min_score=0.5, until=last)],
            "alerts_of_camera": [
                partial(page, camera_id="c-7", since=last - 5 * HOUR),
                partial(page, camera_id="c-7", reviewed=False),
                partial(store.expire, "c-7", before=BEGAN + 200 * SECOND, limit=5),
                store.cameras,
            ],
            "alerts_of_label": [partial(page, label="cat"), partial(page, label="bear")],
            "alerts_without_image": [partial(store.without_image, before=LATER, limit=10)],
            "alerts_waiting_for_frame": [partial(store.waiting_for, [made[-1].frame_key])],
        }
        for index, asked in questions.items():
            for ask in asked * 8:  # from the sixth on a plan may be for any parameters
                before = await scans(database)
                await ask()
                after = await scans(database)
                assert after[index] > before[index], (index, ask)
                assert after["alerts"] == before["alerts"], (index, ask)


async def test_a_database_that_runs_is_healthy(store: AlertStore) -> None:
    assert await store.healthy()


async def _is_unavailable(store: AlertStore) -> None:
    assert not await store.healthy()
    calls: Sequence[Awaitable[object]] = (
        store.record([alert()]),
        store.get(new_id()),
        store.page(EVERY, cursor=None, limit=5),
        store.review(new_id(), reviewed=True),
        store.counts(EVERY),
        store.record_counts([count(1)]),
        store.camera_counts("door", since=BEGAN, until=LATER),
        store.cameras(),
        store.expire("door", before=LATER, limit=1),
        store.discarded(1),
        store.forget(["key"]),
        store.without_image(before=LATER, limit=1),
        store.waiting_for(["key"]),
    )
    for call in calls:
        with pytest.raises(Unavailable) as caught:
            await call
        assert (caught.value.code, caught.value.backend) == ("database_unavailable", "database")


async def test_a_sick_fake_is_unavailable() -> None:
    store = FakeAlertStore()
    store.sick = True
    await _is_unavailable(store)


async def test_a_database_that_is_gone_is_unavailable(
    database_url: str, database_gone: Gone
) -> None:
    async with open_database(database_url) as database:
        store = AlertTable(database)
        await store.record([alert()])
        async with database_gone():
            await _is_unavailable(store)
