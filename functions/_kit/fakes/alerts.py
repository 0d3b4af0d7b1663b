"""The tables of alerts in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from functions._kit.cursors import read_cursor, write_cursor
from functions._kit.errors import Unavailable
from functions._kit.ports import AlertFilter, AlertPage, HourCount
from functions.alerts.contracts import FRAME_PREFIX, Alert, AlertRow, Counts


class FakeAlertStore:
    """Answers as `AlertTable` does."""

    def __init__(self) -> None:
        self.sick = False
        self._rows: dict[str, AlertRow] = {}
        self._discarded: set[str] = set()
        self._counts: dict[tuple[str, datetime, str, str], int] = {}

    async def record(self, alerts: Sequence[Alert]) -> None:
        """See `AlertStore.record`."""
        self._check_health()
        for alert in alerts:
            row = self._rows.setdefault(alert.alert_id, AlertRow(alert=_in_utc(alert)))
            if row.alert.image_key is None and alert.image_key is not None:
                kept = msgspec.structs.replace(row.alert, image_key=alert.image_key)
                self._rows[alert.alert_id] = msgspec.structs.replace(row, alert=kept)

    async def get(self, alert_id: str) -> AlertRow | None:
        """See `AlertStore.get`."""
        self._check_health()
        return self._rows.get(alert_id)

    async def page(self, wanted: AlertFilter, *, cursor: str | None, limit: int) -> AlertPage:
        """See `AlertStore.page`."""
        self._check_health()
        before = read_cursor(cursor) if cursor is not None else None
        found = [
            row
            for row in sorted(self._rows.values(), key=_place, reverse=True)
            if _matches(row, wanted) and (before is None or _place(row) < before)
        ]
        rows = found[:limit]
        return AlertPage(rows, write_cursor(*_place(rows[-1])) if len(found) > limit else None)

    async def review(self, alert_id: str, *, reviewed: bool) -> AlertRow | None:
        """See `AlertStore.review`."""
        self._check_health()
        if alert_id not in self._rows:
            return None
        row = msgspec.structs.replace(self._rows[alert_id], reviewed=reviewed)
        self._rows[alert_id] = row
        return row

    async def counts(self, wanted: AlertFilter) -> list[HourCount]:
        """See `AlertStore.counts`."""
        self._check_health()
        found = Counter(
            (_hour(row.alert.captured_at), row.alert.camera_id, row.alert.label)
            for row in self._rows.values()
            if _matches(row, wanted)
        )
        return [HourCount(*what, count) for what, count in sorted(found.items())]

    async def record_counts(self, counts: Sequence[Counts]) -> None:
        """See `AlertStore.record_counts`."""
        self._check_health()
        for one in counts:
            what = (one.camera_id, one.hour.astimezone(UTC), one.name, one.source)
            self._counts[what] = max(one.count, self._counts.get(what, 0))

    async def camera_counts(
        self, camera_id: str, *, since: datetime, until: datetime
    ) -> dict[datetime, dict[str, int]]:
        """See `AlertStore.camera_counts`."""
        self._check_health()
        hours: dict[datetime, dict[str, int]] = {}
        for (camera, hour, name, _), count in sorted(self._counts.items()):
            if camera == camera_id and since <= hour < until:
                names = hours.setdefault(hour, {})
                names[name] = names.get(name, 0) + count
        return hours

    async def cameras(self) -> list[str]:
        """See `AlertStore.cameras`."""
        self._check_health()
        of_alerts = {row.alert.camera_id for row in self._rows.values()}
        return sorted(of_alerts | {camera_id for camera_id, *_ in self._counts})

    async def expire(self, camera_id: str, *, before: datetime, limit: int) -> int:
        """See `AlertStore.expire`."""
        self._check_health()
        old = [
            row.alert
            for row in sorted(self._rows.values(), key=_place)
            if row.alert.camera_id == camera_id and row.alert.captured_at < before
        ][:limit]
        for alert in old:
            del self._rows[alert.alert_id]
        self._discarded |= {alert.image_key for alert in old if alert.image_key is not None}
        frames = {alert.frame_key for alert in old if alert.image_key is None}
        needed = await self.waiting_for(list(frames))
        self._discarded |= {key for key in frames - needed if key.startswith(FRAME_PREFIX)}
        return len(old)

    async def discarded(self, limit: int) -> list[str]:
        """See `AlertStore.discarded`."""
        self._check_health()
        return sorted(self._discarded)[:limit]

    async def forget(self, keys: Sequence[str]) -> None:
        """See `AlertStore.forget`."""
        self._check_health()
        self._discarded.difference_update(keys)

    async def without_image(
        self, *, before: datetime, limit: int, after: Alert | None = None
    ) -> list[Alert]:
        """See `AlertStore.without_image`."""
        self._check_health()

        def place(alert: Alert) -> tuple[datetime, str]:
            return alert.created_at, alert.alert_id

        alerts = [row.alert for row in self._rows.values()]
        found = [a for a in alerts if a.image_key is None and a.created_at < before]
        if after is not None:
            found = [alert for alert in found if place(alert) > place(after)]
        return sorted(found, key=place)[:limit]

    async def waiting_for(self, frame_keys: Sequence[str]) -> frozenset[str]:
        """See `AlertStore.waiting_for`."""
        self._check_health()
        alerts = [row.alert for row in self._rows.values()]
        needed = {alert.frame_key for alert in alerts if alert.image_key is None}
        return frozenset(needed.intersection(frame_keys))

    async def healthy(self) -> bool:
        """Whether it is not `sick`."""
        return not self.sick

    def _check_health(self) -> None:
        if self.sick:
            raise Unavailable("database", "PostgreSQL cannot be reached: the fake is sick")


def _place(row: AlertRow) -> tuple[datetime, str]:
    """Where a row stands among the others, oldest first."""
    return row.alert.captured_at, row.alert.alert_id


def _in_utc(alert: Alert) -> Alert:
    captured_at, created_at = alert.captured_at.astimezone(UTC), alert.created_at.astimezone(UTC)
    return msgspec.structs.replace(alert, captured_at=captured_at, created_at=created_at)


def _hour(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def _matches(row: AlertRow, wanted: AlertFilter) -> bool:
    alert = row.alert
    return (
        wanted.camera_id in {None, alert.camera_id}
        and wanted.label in {None, alert.label}
        and (wanted.min_score is None or alert.score >= wanted.min_score)
        and (wanted.since is None or alert.captured_at >= wanted.since)
        and (wanted.until is None or alert.captured_at < wanted.until)
        and wanted.reviewed in {None, row.reviewed}
    )
