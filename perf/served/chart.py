"""Throughput against latency as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("agg")

from matplotlib.figure import Figure
from served.lines import Line
from served.targets import Row, RowTarget, Shape

MARKS = "osD^v"
LIMIT = "#c0392b"
ENGINE = "#7f8c8d"


def draw(row: Row, lines: Sequence[Line], path: Path) -> Path:
    """One plot for each shape, one curve for each batch and way of sending; PNG."""
    shapes = list(dict.fromkeys(line.point.shape for line in lines))
    figure = Figure(figsize=(6.4 * len(shapes), 4.8), layout="constrained")
    for plot, shape in zip(figure.subplots(1, len(shapes), squeeze=False)[0], shapes, strict=True):
        _plot(plot, row, shape, [line for line in lines if line.point.shape == shape])
    first = lines[0]
    figure.suptitle(
        f"{row.model}, served by Triton {first.triton} through dynamic batching\n"
        f"{first.machine.name}; {first.date[:10]}, commit {first.commit}",
        fontsize=10,
    )
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=110)
    return path


def _plot(plot: Any, row: Row, shape: Shape, lines: Sequence[Line]) -> None:
    plot.set_title(f"{shape[1]} x {shape[0]} pixels; numbers: requests at once", fontsize=10)
    plot.set_xlabel("throughput (pictures a second)")
    plot.set_ylabel("p95 latency (ms)")
    curves: dict[str, list[Line]] = {}
    for line in lines:
        curves.setdefault(_curve(line), []).append(line)
    for number, (name, points) in enumerate(curves.items()):
        points.sort(key=lambda line: line.point.concurrency)
        across = [line.throughput.median for line in points]
        up = [line.measured.p95_ms for line in points]
        spread = [
            [line.throughput.median - line.throughput.least for line in points],
            [line.throughput.most - line.throughput.median for line in points],
        ]
        plot.errorbar(
            across, up, xerr=spread, marker=MARKS[number % len(MARKS)], capsize=2, label=name
        )
        for line, x, y in zip(points, across, up, strict=True):
            plot.annotate(
                str(line.point.concurrency), (x, y), fontsize=8,
                textcoords="offset points", xytext=(6, -11 if number % 2 else 6),
            )  # fmt: skip
    _limits(plot, row, shape, lines)
    plot.set_xlim(left=0)
    plot.margins(y=0.12)
    plot.set_ylim(bottom=0)
    plot.grid(alpha=0.25)
    plot.legend(fontsize=8)


def _curve(line: Line) -> str:
    sent = "system shared memory" if line.point.shared_memory == "system" else line.protocol
    return f"batch {line.point.batch}, {sent}"


def _limits(plot: Any, row: Row, shape: Shape, lines: Sequence[Line]) -> None:
    """The bare engine's rate, and every target of this shape."""
    rates = [line.bare["rate"]["median"] for line in lines if line.bare is not None]
    bare = sum(rates) / len(rates) if rates else None
    if bare is not None:
        plot.axvline(bare, color=ENGINE, linestyle="--", label=f"bare engine, {bare:.3g}/s")
    for target in row.target:
        if target.shape in {None, shape}:
            _limit(plot, target, bare)


def _limit(plot: Any, target: RowTarget, bare: float | None) -> None:
    where = f" at {target.concurrency}" if target.concurrency is not None else ""
    is_rate = target.figure in {"ratio", "throughput"}
    look = {
        "color": LIMIT,
        "linestyle": (0, (5, 2)) if is_rate else ":",
        "label": f"limit: {target.figure}{where} {target.words()}",
    }
    if target.figure == "ratio" and bare is not None:
        plot.axvline((target.above or 0) * bare, **look)
    elif target.figure == "throughput":
        plot.axvline(target.above or target.below, **look)
    elif target.figure == "p95_ratio" and bare is not None and target.concurrency is not None:
        plot.axhline((target.below or 0) * target.concurrency / bare * 1000, **look)
    elif target.figure.endswith("_ms"):
        plot.axhline(target.below or target.above, **look)
