"""A measured point as one line of JSON with all its conditions, and the lines kept before."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
from served.analyzer import Measurement
from served.machine import Machine
from served.targets import Point

RESULTS = Path(__file__).parents[1] / "results"
MEASURED = RESULTS / "measured.jsonl"
"""Every line of this checkout's runs; git ignores it."""
ACCEPTED = RESULTS / "accepted.jsonl"
"""The lines that later runs are compared with."""


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """What several runs found."""

    median: float
    least: float
    most: float
    runs: int


class CoreTime(msgspec.Struct, frozen=True, kw_only=True):
    """CPU time for one picture, in ms, 0 where not known; a busy machine changes it little."""

    bare_ms: float
    triton_ms: float
    """Of Triton and its backend."""
    client_ms: float
    """Of perf_analyzer, its start and end included."""
    others: float = 0.0
    """Share of all cores that other processes used meanwhile: the noise of the measurement."""

    @property
    def ratio(self) -> float | None:
        """What the ratio comes to where no core is ever idle and nobody else is there."""
        if not (self.bare_ms and self.triton_ms):
            return None
        return self.bare_ms / (self.triton_ms + self.client_ms)


class Conditions(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What every line says of its making."""

    row: str
    model: str
    version: str
    config: str
    config_hash: str
    machine: Machine
    triton: str
    commit: str
    command: str
    date: str


class Line(
    Conditions, frozen=True, kw_only=True, omit_defaults=True, tag="point", tag_field="kind"
):
    """One point: how it was measured, and what came out (medians of all runs)."""

    instances: int
    streams: int
    max_batch: int
    queue_delay_us: int
    point: Point
    protocol: str
    measured: Measurement
    core_time: CoreTime
    throughput: Spread
    bare: dict[str, Any] | None = None
    """The bare engine's facts, among them its rate; CPU rows have it."""
    ratio: Spread | None = None
    p95_ratio: float | None = None
    core_ratio: float | None = None
    """The bare engine's CPU time for a picture / that of Triton and perf_analyzer."""

    @property
    def key(self) -> tuple[object, ...]:
        """What must be equal for two lines to be compared.

        The configuration, the commit and the versions are not: it is their change that is judged.
        """
        return self.row, self.model, self.point, self.machine

    @property
    def title(self) -> str:
        """As people call it."""
        return f"{self.row}, {words(self.point)}"

    def figure(self, name: str) -> float | None:
        """One of the figures that targets name, or None where the line has none."""
        match name:
            case "ratio":
                return None if self.ratio is None else self.ratio.median
            case "p95_ratio":
                return self.p95_ratio
            case "throughput":
                return self.throughput.median
            case _:
                return float(getattr(self.measured, name))

    def compared(self) -> dict[str, float]:
        """What a regression shows in: times, whose names end in _ms or _s, and rates.

        Beside the bare engine only ratios, for the machine may be slower today than last time.
        """
        if self.ratio is not None:
            return {"ratio": self.ratio.median}
        return {"throughput": self.throughput.median, "p95_ms": self.measured.p95_ms}


class LoadLine(
    Conditions, frozen=True, kw_only=True, omit_defaults=True, tag="load", tag_field="kind"
):
    """Photos through the whole system."""

    gpus: int
    width: int
    height: int
    scale: int
    clients: int
    photos: int
    figures: dict[str, float]
    missing: dict[str, str] = {}
    """Figures that could not be had, and why."""

    @property
    def key(self) -> tuple[object, ...]:
        """As a point's."""
        asked = (self.width, self.height, self.scale, self.clients, self.photos)
        return self.row, self.model, self.gpus, asked, self.machine

    @property
    def title(self) -> str:
        """As people call it."""
        return f"{self.row} on {self.gpus} GPU{'s' if self.gpus != 1 else ''}"

    def compared(self) -> dict[str, float]:
        """As a point's."""
        names = ("images_per_minute", "median_s", "p95_s")
        return {name: self.figures[name] for name in names if name in self.figures}


AnyLine: TypeAlias = Line | LoadLine


def read_lines(path: Path) -> list[AnyLine]:
    """All lines of a file, oldest first; none when it is absent."""
    if not path.exists():
        return []
    lines = path.read_bytes().splitlines()
    return [msgspec.json.decode(line, type=AnyLine) for line in lines if line]


def append(path: Path, lines: Iterable[AnyLine]) -> None:
    """Add lines at the end."""
    path.parent.mkdir(exist_ok=True)
    with path.open("ab") as file:
        for line in lines:
            file.write(msgspec.json.encode(line) + b"\n")


def regressions(line: AnyLine, accepted: Iterable[AnyLine], limit: float) -> list[str]:
    """A sentence for each figure that is worse than last accepted by more than `limit`."""
    last = [other for other in accepted if other.key == line.key]
    if not last:
        return []
    before = last[-1]
    old, sentences = before.compared(), []
    for name, value in line.compared().items():
        if name not in old or old[name] <= 0 or value <= 0:
            continue
        is_time = name.endswith(("_ms", "_s"))
        worse = value / old[name] - 1 if is_time else 1 - value / old[name]
        if worse > limit:
            sentences.append(
                f"{line.title}: {name} is {value:.4g} and was {old[name]:.4g},"
                f" {worse:.0%} worse (limit {limit:.0%}){_changed(line, before)};"
                " if that is meant, run it again with --accept"
            )
    return sentences


def _changed(line: AnyLine, before: AnyLine) -> str:
    names = ("config_hash", "version", "triton", "commit")
    changed = [name for name in names if getattr(line, name) != getattr(before, name)]
    if not changed:
        return ", and nothing but chance has changed"
    return f", since {before.date[:10]} changed: " + ", ".join(
        f"{name} {getattr(before, name)} -> {getattr(line, name)}" for name in changed
    )


def words(point: Point) -> str:
    """A point as people say it."""
    height, width = point.shape
    memory = " over shared memory" if point.shared_memory == "system" else ""
    batch = f" in batches of {point.batch}" if point.batch > 1 else ""
    return f"{width} x {height}{batch}{memory}, {point.concurrency} at once"
