"""`just bench recording`: alerts into PostgreSQL and out of it, through `AlertTable`."""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import psycopg
from measure import row, say, timed

from functions._kit.messages import new_id, now
from functions._kit.ports import AlertFilter
from functions.alerts.contracts import Alert, Box, Frame, alert_id, image_key
from gateway.adapters.tables import AlertTable, Database, open_database
from gateway.embedded import EmbeddedServers

BATCH, BATCHES, SINGLES = 100, 100, 500
ROWS, CAMERAS = 1_000_000, 20
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
SPACING = timedelta(days=1) / ROWS
"""A busy day: 11.6 alerts a second, 2,083 an hour and camera."""

FILL = """
INSERT INTO alerts (alert_id, camera_id, label, score, x, y, width, height, captured_at, created_at,
                    model, model_version, frame_key, image_key)
SELECT uuidv7(at - clock_timestamp()), camera, (ARRAY['person', 'car', 'dog', 'cat', 'truck'])[
        1 + floor(5 * random())], random(), random() / 2, random() / 2, random() / 2, random() / 2,
    at, at, 'nanodet-g-416', '1', 'frames/' || camera || '/' || gen_random_uuid() || '.jpg',
    'alerts/2026-01-01/' || camera || '/' || gen_random_uuid() || '.jpg'
FROM generate_series(0, %(rows)s - 1) AS n,
    LATERAL (SELECT 'camera-' || n %% %(cameras)s AS camera,
                    %(began)s + n * %(spacing)s AS at) AS made
"""
BARE_PAGE = """SELECT * FROM alerts WHERE camera_id = %s AND captured_at >= %s
               ORDER BY captured_at DESC, alert_id DESC LIMIT 51"""


async def recording(options: argparse.Namespace) -> None:
    """Alerts in, in batches and one by one; pages and counts out of 1,000,000 alerts."""
    with tempfile.TemporaryDirectory(prefix="nereid-bench-") as folder:
        async with EmbeddedServers(Path(folder), want={"postgres"}) as servers:
            url = servers.postgres.url
            async with open_database(url) as database:
                settings = await _settings(database)
                await write(AlertTable(database), options.runs, settings)
                await fill(url)
            # one connection: what it has read is asked of it
            async with open_database(url, max_connections=1) as database:
                await read(database, options.runs, settings)
                await write(AlertTable(database), options.runs, settings | {"rows_there": ROWS})


async def write(table: AlertTable, runs: int, settings: dict[str, str]) -> None:
    """Rates of new alerts, of the same alerts with their images kept, and of single alerts."""
    await record(table, alerts(BATCH), BATCH)
    rates: dict[str, list[float]] = {"batches": [], "images": [], "single": []}
    for _ in range(runs):
        made = alerts(BATCH * BATCHES)
        kept = [msgspec.structs.replace(alert, image_key=image_key(alert)) for alert in made]
        rates["batches"].append(len(made) / await timed(record(table, made, BATCH)))
        rates["images"].append(len(kept) / await timed(record(table, kept, BATCH)))
        rates["single"].append(SINGLES / await timed(record(table, alerts(SINGLES), 1)))
    limits = {"batches": ">= 10000 alerts/s"}
    for name, measured in rates.items():
        ordered = sorted(measured)
        say(
            f"recording.{name}",
            median_per_s=round(ordered[len(ordered) // 2]),
            least_per_s=round(ordered[0]),
            most_per_s=round(ordered[-1]),
            batch=1 if name == "single" else BATCH,
            runs=runs,
            limit=limits.get(name),
            postgres=settings,
        )


async def read(database: Database, runs: int, settings: dict[str, str]) -> None:
    """Times of questions among the rows of `fill`, each beside the bare statement."""
    table = AlertTable(database)
    last = BEGAN + ROWS * SPACING
    camera, hour = "camera-7", last - timedelta(hours=1)

    async def whole_hour() -> None:
        wanted, cursor = AlertFilter(camera_id=camera, since=hour), None
        while True:
            page = await table.page(wanted, cursor=cursor, limit=50)
            cursor = page.next_cursor
            if cursor is None:
                return

    def page(**wanted: object) -> Callable[[], Awaitable[object]]:
        return lambda: table.page(AlertFilter(**wanted), cursor=None, limit=50)  # type: ignore[arg-type]

    day = AlertFilter(since=last - timedelta(days=1))
    limit = "median < 0.010 s"
    questions: list[tuple[str, int, Callable[[], Awaitable[object]], str | None]] = [
        ("page.bare_select", 50, lambda: database.fetch(BARE_PAGE, [camera, hour]), None),
        ("page.hour_of_camera", 50, page(camera_id=camera, since=hour), limit),
        ("page.all", 50, page(), None),
        ("page.label", 50, page(label="dog", min_score=0.9), None),
        ("page.absent_label", 50, page(label="bear"), None),
        ("page.whole_hour_in_42_pages", 1, whole_hour, None),
        ("counts.day", 1, lambda: table.counts(day), None),
        (
            "counts.day_of_camera",
            1,
            lambda: table.counts(AlertFilter(camera_id=camera, since=day.since)),
            None,
        ),
        ("cameras", 10, table.cameras, None),
        (
            "expire_100_of_camera",
            5,
            lambda: table.expire(camera, before=hour - timedelta(hours=1), limit=100),
            None,
        ),
        ("waiting_for_100", 10, lambda: table.waiting_for([new_id() for _ in range(100)]), None),
    ]
    measured: dict[str, list[float]] = {name: [] for name, *_ in questions}
    indexes: dict[str, list[str]] = {}
    for name, _, ask, _ in questions:
        before = await _scans(database)
        await ask()
        after = await _scans(database)
        indexes[name] = sorted(index for index in after if after[index] > before[index])
    for _ in range(runs):
        for name, times, ask, _ in questions:
            measured[name] += [await timed(ask()) for _ in range(times)]
    for name, _, _, at_most in questions:
        facts = {"alerts": ROWS, "read": indexes[name], "limit": at_most, "postgres": settings}
        row(f"recording.{name}", measured[name], **facts)


async def record(table: AlertTable, made: list[Alert], batch: int) -> None:
    """Write `made`, so many in each statement."""
    for first in range(0, len(made), batch):
        await table.record(made[first : first + batch])


def alerts(count: int) -> list[Alert]:
    """New alerts of several cameras, captured now."""
    made = []
    for n in range(count):
        camera, captured_at = f"camera-{n % CAMERAS}", now()
        frame = Frame(key=f"frames/{camera}/{new_id()}.jpg")
        made.append(
            Alert(
                alert_id=alert_id(camera, frame, captured_at, "person"),
                camera_id=camera,
                label="person",
                score=random.random(),  # noqa: S311 - no secret
                box=Box(x=0.1, y=0.2, width=random.random(), height=0.4),  # noqa: S311
                captured_at=captured_at,
                created_at=captured_at,
                model="nanodet-g-416",
                model_version="1",
                frame_key=frame.key,
            )
        )
    return made


async def fill(url: str) -> None:
    """Write `ROWS` alerts, images kept, by the database itself; then what autovacuum would do."""
    began = time.perf_counter()
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute("TRUNCATE alerts")
        facts = {"rows": ROWS, "cameras": CAMERAS, "began": BEGAN, "spacing": SPACING}
        await connection.execute(FILL, facts)
        await connection.execute("VACUUM (ANALYZE) alerts")
        sizes = await connection.execute(
            "SELECT pg_table_size('alerts') / 1000000, pg_indexes_size('alerts') / 1000000"
        )
        ((table_mb, indexes_mb),) = await sizes.fetchall()
    seconds = round(time.perf_counter() - began, 1)
    say("recording.fill", alerts=ROWS, seconds=seconds, table_mb=table_mb, indexes_mb=indexes_mb)


async def _settings(database: Database) -> dict[str, str]:
    """What the numbers rest on: that a commit is durable, above all."""
    found = await database.fetch(
        "SELECT name, setting FROM pg_settings WHERE name IN "
        "('server_version', 'fsync', 'synchronous_commit', 'full_page_writes')"
    )
    return {setting["name"]: setting["setting"] for setting in found}


async def _scans(database: Database) -> dict[str, int]:
    """How often each index, and each table itself, has been read."""
    await database.fetch("SELECT pg_stat_force_next_flush()")
    found = await database.fetch(
        "SELECT indexrelname AS name, idx_scan AS scans FROM pg_stat_user_indexes "
        "UNION ALL SELECT relname, seq_scan FROM pg_stat_user_tables"
    )
    return {scan["name"]: scan["scans"] for scan in found}
