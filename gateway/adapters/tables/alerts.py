"""The port `AlertStore`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from functions._kit.cursors import read_cursor, write_cursor
from functions._kit.ports import AlertFilter, AlertPage, HourCount
from functions.alerts.contracts import FRAME_PREFIX, Alert, AlertRow, Box, Counts
from gateway.adapters.tables.counts import CountTable
from gateway.adapters.tables.database import Database
from gateway.adapters.tables.json_text import json_text

# One parameter instead of one a column: msgspec writes JSON faster than psycopg writes arrays.
# Measured with 100 alerts a statement: JSON 30,000 alerts/s, unnest 15,000, VALUES 12,000,
# COPY to a temporary table 15,000.
_RECORD = """
INSERT INTO alerts AS a (alert_id, camera_id, label, score, x, y, width, height, zone, captured_at,
                         created_at, model, model_version, frame_key, frame_bytes, image_key)
SELECT alert_id, camera_id, label, score,
    (box->>'x')::float8, (box->>'y')::float8, (box->>'width')::float8, (box->>'height')::float8,
    zone, captured_at, created_at, model, model_version, frame_key, frame_bytes, image_key
FROM json_to_recordset(%s::json) AS given (
    alert_id uuid, camera_id text, label text, score float8, box json, zone text,
    captured_at timestamptz, created_at timestamptz, model text, model_version text,
    frame_key text, frame_bytes bigint, image_key text)
ON CONFLICT (alert_id) DO UPDATE SET image_key = excluded.image_key
WHERE a.image_key IS NULL AND excluded.image_key IS NOT NULL
"""
_COLUMNS = """alert_id, camera_id, label, score, x, y, width, height, zone, captured_at, created_at,
    model, model_version, frame_key, frame_bytes, image_key, reviewed"""

# date_bin is arithmetic; date_trunc looks the time zone up for every row.
_COUNTS = """
SELECT date_bin('1 hour', captured_at, '2000-01-01 00:00+00') AS hour, camera_id, label, count(*)
FROM alerts WHERE {where} GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
"""

# From one camera to the next by the index, instead of past every row of each.
_CAMERAS = """
WITH RECURSIVE
of_alerts (id) AS (
    SELECT min(camera_id) FROM alerts
    UNION ALL
    SELECT (SELECT min(camera_id) FROM alerts WHERE camera_id > id)
    FROM of_alerts WHERE id IS NOT NULL),
of_counts (id) AS (
    SELECT min(camera_id) FROM camera_counts
    UNION ALL
    SELECT (SELECT min(camera_id) FROM camera_counts WHERE camera_id > id)
    FROM of_counts WHERE id IS NOT NULL)
SELECT id FROM (SELECT id FROM of_alerts UNION SELECT id FROM of_counts) AS found
WHERE id IS NOT NULL ORDER BY id COLLATE "C"
"""

# Rows that a recorder holds are left for the next time: waiting for them could go round in a ring.
# An alert without an image leaves its frame behind, if that is ours and no other alert needs it.
_EXPIRE = """
WITH
old AS (
    SELECT alert_id FROM alerts WHERE camera_id = %(camera_id)s AND captured_at < %(before)s
    ORDER BY captured_at, alert_id LIMIT %(limit)s FOR UPDATE SKIP LOCKED),
gone AS (
    DELETE FROM alerts USING old WHERE alerts.alert_id = old.alert_id
    RETURNING image_key, frame_key),
noted AS (
    INSERT INTO discarded_images (key)
    SELECT DISTINCT coalesce(image_key, frame_key) COLLATE "C" AS key FROM gone
    WHERE image_key IS NOT NULL OR starts_with(frame_key, %(ours)s) AND NOT EXISTS (
        SELECT FROM alerts AS other
        WHERE other.image_key IS NULL AND other.frame_key = gone.frame_key
        AND other.alert_id NOT IN (SELECT alert_id FROM old))
    ORDER BY key
    ON CONFLICT DO NOTHING)
SELECT count(*) FROM gone
"""


class AlertTable:
    """One row an alert."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._counts = CountTable(database)

    async def record(self, alerts: Sequence[Alert]) -> None:
        """See `AlertStore.record`."""
        merged: dict[str, Alert] = {}
        for alert in alerts:  # one statement may touch a row once only
            held = merged.setdefault(alert.alert_id, alert)
            if held.image_key is None and alert.image_key is not None:
                merged[alert.alert_id] = msgspec.structs.replace(held, image_key=alert.image_key)
        if merged:
            # one order in every process, so that two of them never wait for each other in a ring
            rows = [merged[alert_id] for alert_id in sorted(merged)]
            await self._database.fetch(_RECORD, [json_text(rows)])

    async def get(self, alert_id: str) -> AlertRow | None:
        """See `AlertStore.get`."""
        if not _is_id(alert_id):
            return None
        return _first(
            await self._database.fetch(
                f"SELECT {_COLUMNS} FROM alerts WHERE alert_id = %s", [alert_id]
            )
        )

    async def page(self, wanted: AlertFilter, *, cursor: str | None, limit: int) -> AlertPage:
        """See `AlertStore.page`."""
        where, values = _where(wanted)
        if cursor is not None:
            where += " AND (captured_at, alert_id) < (%s, %s::uuid)"
            values += read_cursor(cursor)
        found = await self._database.fetch(
            f"SELECT {_COLUMNS} FROM alerts WHERE {where} "
            "ORDER BY captured_at DESC, alert_id DESC LIMIT %s",
            [*values, limit + 1],
        )
        rows = [_alert_row(row) for row in found[:limit]]
        if len(found) <= limit:
            return AlertPage(rows, None)
        last = rows[-1].alert
        return AlertPage(rows, write_cursor(last.captured_at, last.alert_id))

    async def review(self, alert_id: str, *, reviewed: bool) -> AlertRow | None:
        """See `AlertStore.review`."""
        if not _is_id(alert_id):
            return None
        return _first(
            await self._database.fetch(
                f"UPDATE alerts SET reviewed = %s WHERE alert_id = %s RETURNING {_COLUMNS}",
                [reviewed, alert_id],
            )
        )

    async def counts(self, wanted: AlertFilter) -> list[HourCount]:
        """See `AlertStore.counts`."""
        where, values = _where(wanted)
        found = await self._database.fetch(_COUNTS.format(where=where), values)
        return [HourCount(**row) for row in found]

    async def record_counts(self, counts: Sequence[Counts]) -> None:
        """See `AlertStore.record_counts`."""
        await self._counts.record(counts)

    async def camera_counts(
        self, camera_id: str, *, since: datetime, until: datetime
    ) -> dict[datetime, dict[str, int]]:
        """See `AlertStore.camera_counts`."""
        return await self._counts.of_camera(camera_id, since=since, until=until)

    async def cameras(self) -> list[str]:
        """See `AlertStore.cameras`."""
        return [row["id"] for row in await self._database.fetch(_CAMERAS)]

    async def expire(self, camera_id: str, *, before: datetime, limit: int) -> int:
        """See `AlertStore.expire`."""
        (row,) = await self._database.fetch(
            _EXPIRE,
            {"camera_id": camera_id, "before": before, "limit": limit, "ours": FRAME_PREFIX},
        )
        return int(row["count"])

    async def discarded(self, limit: int) -> list[str]:
        """See `AlertStore.discarded`."""
        found = await self._database.fetch(
            "SELECT key FROM discarded_images ORDER BY key LIMIT %s", [limit]
        )
        return [row["key"] for row in found]

    async def forget(self, keys: Sequence[str]) -> None:
        """See `AlertStore.forget`."""
        await self._database.fetch(
            "DELETE FROM discarded_images WHERE key = ANY(%s::text[])", [list(keys)]
        )

    async def without_image(
        self, *, before: datetime, limit: int, after: Alert | None = None
    ) -> list[Alert]:
        """See `AlertStore.without_image`."""
        behind, place = "", []
        if after is not None:
            behind, place = (
                "AND (created_at, alert_id) > (%s, %s)",
                [after.created_at, after.alert_id],
            )
        found = await self._database.fetch(
            f"SELECT {_COLUMNS} FROM alerts WHERE image_key IS NULL AND created_at < %s {behind} "
            "ORDER BY created_at, alert_id LIMIT %s",
            [before, *place, limit],
        )
        return [_alert_row(row).alert for row in found]

    async def waiting_for(self, frame_keys: Sequence[str]) -> frozenset[str]:
        """See `AlertStore.waiting_for`."""
        found = await self._database.fetch(
            "SELECT DISTINCT frame_key FROM alerts "
            "WHERE image_key IS NULL AND frame_key = ANY(%s::text[])",
            [list(frame_keys)],
        )
        return frozenset(row["frame_key"] for row in found)

    async def healthy(self) -> bool:
        """See `AlertStore.healthy`."""
        return await self._database.healthy()


def _where(wanted: AlertFilter) -> tuple[str, list[Any]]:
    clauses = {
        "camera_id = %s": wanted.camera_id,
        "label = %s": wanted.label,
        "score >= %s": wanted.min_score,
        "captured_at >= %s": wanted.since,
        "captured_at < %s": wanted.until,
        "reviewed = %s": wanted.reviewed,
    }
    given = {clause: value for clause, value in clauses.items() if value is not None}
    return " AND ".join(given) or "TRUE", list(given.values())


def _is_id(text: str) -> bool:
    """Whether `text` is a UUID as we write them; no alert has another id."""
    try:
        return str(UUID(text)) == text
    except ValueError:
        return False


def _first(rows: list[dict[str, Any]]) -> AlertRow | None:
    return _alert_row(rows[0]) if rows else None


def _alert_row(row: dict[str, Any]) -> AlertRow:
    box = Box(x=row.pop("x"), y=row.pop("y"), width=row.pop("width"), height=row.pop("height"))
    reviewed = row.pop("reviewed")
    alert = Alert(**{**row, "alert_id": str(row["alert_id"])}, box=box)
    return AlertRow(alert=alert, reviewed=reviewed)
