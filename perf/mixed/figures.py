"""What a long run is judged by: percentiles by the minute, slopes of memory, limits."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from loading.summary import PERCENTILES, percentile

Timed = tuple[float, float]
"""When something was measured, in seconds from the beginning, and what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """What was measured against what it must stay below, or may be at most."""

    what: str
    measured: float
    most: float
    unit: str
    strictly: bool = True
    """Whether the limit itself is too much."""

    @property
    def met(self) -> bool:
        """Whether it is kept; what is no number never is."""
        return self.measured < self.most or (not self.strictly and self.measured == self.most)

    def facts(self) -> dict[str, Any]:
        """As a row says it."""
        return {
            "what": self.what,
            "measured": round(self.measured, 3),
            "limit": f"{'<' if self.strictly else '<='} {self.most:g} {self.unit}",
            "met": self.met,
        }


def none_of(what: str, measured: int) -> Limit:
    """There may be none of it."""
    return Limit(what=what, measured=measured, most=0, unit="", strictly=False)


def spread_ms(seconds: Iterable[float]) -> dict[str, float]:
    """How many, percentiles and the longest, in milliseconds; of nothing, the count alone."""
    ordered = sorted(seconds)
    found: dict[str, float] = {"count": len(ordered)}
    if ordered:
        found |= {f"p{p}_ms": round(1000 * percentile(ordered, p), 2) for p in PERCENTILES}
        found["most_ms"] = round(1000 * ordered[-1], 2)
    return found


def by_minute(timed: Iterable[Timed]) -> list[dict[str, float]]:
    """The spread of each whole minute; seconds beyond the last whole one belong to it."""
    timed = sorted(timed)
    if not timed:
        return []
    last = max(0, int((timed[-1][0] + 1) // 60) - 1)
    minutes = itertools.groupby(timed, key=lambda one: min(last, int(one[0] // 60)))
    return [
        {"minute": minute} | spread_ms(seconds for _, seconds in found) for minute, found in minutes
    ]


def slope_percent(samples: Sequence[Timed]) -> float:
    """Growth in percent of the median a minute, by Theil and Sen: the median of all slopes.

    A garbage collector's saw teeth, or one sample far off, hardly move it. Less than three samples
    have no slope: NaN, which keeps no limit.
    """
    if len(samples) < 3:
        return float("nan")
    slopes = [
        (after - before) / (then - now)
        for (now, before), (then, after) in itertools.combinations(sorted(samples), 2)
        if then > now
    ]
    middle = statistics.median(value for _, value in samples)
    return 100 * 60 * statistics.median(slopes) / middle if middle else 0.0


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Lines for a person to read: the first column to the left, numbers to the right."""
    cells = [[*heads], *([_shown(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    )


def limits_table(limits: Iterable[Limit]) -> str:
    """Each limit with what was measured, and whether it was kept."""
    rows = [
        (one.what, one.measured, one.facts()["limit"], "met" if one.met else "MISSED")
        for one in limits
    ]
    return table(("what", "measured", "limit", ""), rows)


def _shown(cell: object) -> str:
    return f"{cell:.2f}" if isinstance(cell, float) else str(cell)
