"""The record of every alert, and of what made none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from functions.alerts.contracts import Alert, AlertRow, Counts


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertFilter:
    """Which alerts are wanted; None does not ask. `since` <= captured_at < `until`."""

    camera_id: str | None = None
    label: str | None = None
    min_score: float | None = None
    since: datetime | None = None
    until: datetime | None = None
    reviewed: bool | None = None


@dataclass(frozen=True, slots=True)
class AlertPage:
    """Alerts, newest first, and the cursor of the next page."""

    rows: list[AlertRow]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class HourCount:
    """How many alerts of one camera and label were captured in the hour that begins at `hour`."""

    hour: datetime
    camera_id: str
    label: str
    count: int


class AlertStore(Protocol):
    """Alerts: tables of PostgreSQL."""

    async def record(self, alerts: Sequence[Alert]) -> None:
        """Write `alerts`, in one statement.

        A repeated alert changes nothing, but for an `image_key` that the row still lacks.
        """
        ...

    async def get(self, alert_id: str) -> AlertRow | None:
        """One alert, or None."""
        ...

    async def page(self, wanted: AlertFilter, *, cursor: str | None, limit: int) -> AlertPage:
        """Alerts by `captured_at` and id, newest first.

        Pages that follow one another's cursor show each row once that was there at the first,
        whatever is added meanwhile. Raises `RequestError` (code `invalid_cursor`).
        """
        ...

    async def review(self, alert_id: str, *, reviewed: bool) -> AlertRow | None:
        """Mark an alert as seen by a person, or not; the row as it is then, None where absent."""
        ...

    async def counts(self, wanted: AlertFilter) -> list[HourCount]:
        """Alerts by hour, camera and label, in this order."""
        ...

    async def record_counts(self, counts: Sequence[Counts]) -> None:
        """Take over the counts of processes, in one statement; they only grow.

        A count that is late or repeated changes nothing.
        """
        ...

    async def camera_counts(
        self, camera_id: str, *, since: datetime, until: datetime
    ) -> dict[datetime, dict[str, int]]:
        """What `record_counts` knows of a camera, by hour and by name, over all processes."""
        ...

    async def cameras(self) -> list[str]:
        """Every camera that has alerts or counts, by id."""
        ...

    async def expire(self, camera_id: str, *, before: datetime, limit: int) -> int:
        """Delete up to `limit` of the oldest alerts captured before `before`; return how many.

        In the same transaction the keys of their images come to `discarded`, so that a crash
        leaves no image behind and no alert without its image.
        """
        ...

    async def discarded(self, limit: int) -> list[str]:
        """Keys of images whose alert is gone."""
        ...

    async def forget(self, keys: Sequence[str]) -> None:
        """Take `keys` off `discarded`: the images are removed."""
        ...

    async def without_image(
        self, *, before: datetime, limit: int, after: Alert | None = None
    ) -> list[Alert]:
        """The oldest alerts created before `before` whose image has not been kept yet.

        Those behind `after` where it is given, the last one of an earlier answer.
        """
        ...

    async def waiting_for(self, frame_keys: Sequence[str]) -> frozenset[str]:
        """Those of `frame_keys` that an alert without its image still needs."""
        ...

    async def healthy(self) -> bool:
        """Whether the database answers now."""
        ...
