"""What the alert functions count, by camera, hour, name and process."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from functions.alerts.contracts import Counts
from gateway.adapters.tables.database import Database
from gateway.adapters.tables.json_text import json_text

# Merged and in one order, for the reasons that `AlertTable.record` has.
_RECORD = """
INSERT INTO camera_counts AS c (camera_id, hour, name, source, count)
SELECT camera_id, hour, name, source, max(count)
FROM json_to_recordset(%s::json)
    AS given (camera_id text, hour timestamptz, name text, source text, count bigint)
GROUP BY camera_id, hour, name, source
ORDER BY camera_id COLLATE "C", hour, name COLLATE "C", source COLLATE "C"
ON CONFLICT (camera_id, hour, name, source) DO UPDATE SET count = excluded.count
WHERE c.count < excluded.count
"""
_OF_CAMERA = """
SELECT hour, name, sum(count)::bigint AS count FROM camera_counts
WHERE camera_id = %s AND hour >= %s AND hour < %s
GROUP BY hour, name ORDER BY hour, name
"""


class CountTable:
    """One row a camera, hour, name and process."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def record(self, counts: Sequence[Counts]) -> None:
        """See `AlertStore.record_counts`."""
        if counts:
            await self._database.fetch(_RECORD, [json_text(counts)])

    async def of_camera(
        self, camera_id: str, *, since: datetime, until: datetime
    ) -> dict[datetime, dict[str, int]]:
        """See `AlertStore.camera_counts`."""
        hours: dict[datetime, dict[str, int]] = {}
        for row in await self._database.fetch(_OF_CAMERA, [camera_id, since, until]):
            hours.setdefault(row["hour"], {})[row["name"]] = row["count"]
        return hours
