"""What a load test found: rates, refusals, errors, percentiles, and whether all is as promised."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from loading.plan import BANDS, PIXELS, Order

OK = "ok"
PERCENTILES = (50, 95, 99)
COLUMNS = (*(f"p{percent}" for percent in PERCENTILES), "most")
TABLES = {
    "requests": "request, s",
    "whole_by_photo": "whole task by photo, s",
    "whole_by_band": "the same by priority, s",
    "waited_by_band": "wait for a worker, s",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One request: what it was for, how long it took, and how it ended."""

    name: str
    seconds: float
    end: str = OK
    """`ok`, or the status and code, or the error's name."""
    refused: bool = False
    """Whether the system said to come back later: that is backpressure, and no error."""


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What became of one order."""

    order: Order
    task_id: str | None = None
    """None until the task is accepted."""
    status: str = "not sent"
    seconds: float | None = None
    """From the first byte of the upload to the answer that says it is final."""
    waited_s: float | None = None
    """From its acceptance until a worker took it, by the system's own clock."""
    found: tuple[int, int] | None = None
    """Width and height, by the task's result."""
    model: str | None = None
    """What enlarged it."""
    seen: tuple[int, int] | None = None
    """Width and height of the file itself, where it was downloaded."""


@dataclass(slots=True)
class Record:
    """All that happened."""

    samples: list[Sample] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)


def percentile(ordered: Sequence[float], percent: int) -> float:
    """The least value that `percent` of all do not exceed (nearest rank), of sorted values."""
    return ordered[math.ceil(percent / 100 * len(ordered)) - 1]


def spread(seconds: Iterable[float]) -> dict[str, float]:
    """How many, percentiles, and the longest, in seconds; of nothing, the count alone."""
    ordered = sorted(seconds)
    found: dict[str, float] = {"count": len(ordered)}
    if ordered:
        found |= {f"p{p}_s": round(percentile(ordered, p), 3) for p in PERCENTILES}
        found["most_s"] = round(ordered[-1], 3)
    return found


def summary(record: Record, wall_s: float) -> dict[str, Any]:
    """Figures of a run that took `wall_s`."""
    done = [outcome for outcome in record.outcomes if outcome.status == "completed"]
    waits = [(o.order, o.waited_s) for o in done if o.waited_s is not None]
    whole = [(o.order, o.seconds) for o in done if o.seconds is not None]
    pixels = sum(width * height for o in done for width, height in [PIXELS[o.order.kind]])
    names = sorted({sample.name for sample in record.samples})
    return {
        "wall_s": round(wall_s, 1),
        "tasks_per_minute": round(60 * len(done) / wall_s, 2),
        "megapixels_per_s": round(pixels / 1e6 / wall_s, 3),
        "requests": {
            name: spread(s.seconds for s in record.samples if s.name == name and s.end == OK)
            for name in names
        },
        "refused": ends(s for s in record.samples if s.refused),
        "errors": ends(s for s in record.samples if s.end != OK and not s.refused),
        "whole_by_photo": {
            kind: spread(s for order, s in whole if order.kind == kind) for kind in PIXELS
        },
        "whole_by_band": {
            name: spread(s for order, s in whole if order.band == name) for name in BANDS
        },
        "waited_by_band": {
            name: spread(s for order, s in waits if order.band == name) for name in BANDS
        },
        "models": sorted({outcome.model for outcome in done if outcome.model}),
        "statuses": dict(Counter(outcome.status for outcome in record.outcomes)),
    }


def ends(samples: Iterable[Sample]) -> dict[str, int]:
    """How often each request ended in which way."""
    return dict(Counter(f"{sample.name}: {sample.end}" for sample in samples))


def faults(record: Record) -> list[str]:
    """What is not as promised, a sentence each; none if every accepted task is done, and right."""
    found = []
    for outcome in record.outcomes:
        task = f"photo {outcome.order.number} ({outcome.order.kind}, task {outcome.task_id})"
        if outcome.task_id is None:
            found.append(f"{task} was never accepted")
        elif outcome.status != "completed":
            found.append(f"{task} was accepted and is {outcome.status}")
        for what, size in (("says", outcome.found), ("holds", outcome.seen)):
            if size is not None and size != outcome.order.result:
                found.append(f"{task}: its result {what} {size}, not {outcome.order.result}")
    return found


def shown(row: Mapping[str, Any]) -> str:
    """A row, for a person to read."""
    photos = ", ".join(f"{count} of {kind}" for kind, count in row["photos"].items())
    lines = [
        f"{photos}, by {row['scale']}, from {row['clients']} clients, in {row['wall_s']} s:",
        f"{row['tasks_per_minute']} tasks a minute, {row['megapixels_per_s']} megapixels a second",
    ]
    for table, title in TABLES.items():
        lines += ["", f"{title:24}" + "".join(f"{head:>9}" for head in ("count", *COLUMNS))]
        for name, figures in row[table].items():
            cells = [f"{figures[f'{c}_s']:9.3f}" for c in COLUMNS if f"{c}_s" in figures]
            lines.append(f"{name:24}{figures['count']:9}" + "".join(cells))
    lines += [
        "",
        f"told to come back later: {row['refused'] or 'never'}",
        f"errors: {row['errors'] or 'none'}",
        *(f"NOT AS PROMISED: {fault}" for fault in row["faults"]),
    ]
    if not row["faults"]:
        lines.append("every accepted task is completed, and its result has the right size")
    return "\n".join(lines)
