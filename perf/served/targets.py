"""What `perf/targets.toml` may say: rows for perf_analyzer, loads of the whole system, targets."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta

TARGETS = Path(__file__).parents[1] / "targets.toml"

Count: TypeAlias = Annotated[int, Meta(ge=1)]
Shape: TypeAlias = tuple[Count, Count]
"""Height and width of a picture."""
SharedMemory: TypeAlias = Literal["none", "system"]
RowFigure: TypeAlias = Literal["ratio", "p95_ratio", "p50_ms", "p95_ms", "p99_ms", "throughput"]
LoadFigure: TypeAlias = Literal[
    "median_s",
    "p95_s",
    "images_per_minute",
    "gpu_use",
    "worker_memory_gb",
    "error_share",
    "scale_out_s",
    "recovery_s",
]


class Fixed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of the file: nothing unknown is taken."""


class Bounds(Fixed, frozen=True, kw_only=True):
    """What a figure must be above, below, or between; both are themselves missed."""

    above: float | None = None
    below: float | None = None

    def __post_init__(self) -> None:
        if self.above is None and self.below is None:
            raise ValueError("a target needs `above`, `below` or both")

    def hold(self, value: float) -> bool:
        """Whether the value is inside."""
        low = -float("inf") if self.above is None else self.above
        high = float("inf") if self.below is None else self.below
        return low < value < high

    def words(self) -> str:
        """As people write it: `> 0.85`, `< 5`, `75 to 85`."""
        if self.above is None:
            return f"< {self.below:g}"
        return f"> {self.above:g}" if self.below is None else f"{self.above:g} to {self.below:g}"


class RowTarget(Bounds, frozen=True, kw_only=True):
    """`above`: for the best of a row's points; `below`: for every one, of one shape or all."""

    figure: RowFigure
    shape: Shape | None = None
    concurrency: Count | None = None


class Row(Fixed, frozen=True, kw_only=True):
    """One model under perf_analyzer: each combination of its lists is a point."""

    name: str
    model: str
    device: Literal["cpu", "gpu"]
    config: str = ""
    """The file MODEL/configs/CONFIG.pbtxt that Triton serves by; empty: config.pbtxt."""
    shapes: Annotated[tuple[Shape, ...], Meta(min_length=1)]
    batch_sizes: Annotated[tuple[Count, ...], Meta(min_length=1)] = (1,)
    concurrency: Annotated[tuple[Count, ...], Meta(min_length=1)]
    shared_memory: Annotated[tuple[SharedMemory, ...], Meta(min_length=1)] = ("none",)
    window_s: Annotated[float, Meta(gt=0)] = 2.0
    """A third of a measurement, and how long the bare engine runs."""
    requests: Count | None = None
    """So many make a measurement, however long they take: for pictures that take seconds each."""
    target: tuple[RowTarget, ...] = ()

    def points(self) -> Iterator[Point]:
        """Every combination, shape by shape."""
        for shape, batch, memory, concurrency in itertools.product(
            self.shapes, self.batch_sizes, self.shared_memory, self.concurrency
        ):
            yield Point(shape=shape, batch=batch, shared_memory=memory, concurrency=concurrency)


class Point(Fixed, frozen=True, kw_only=True):
    """One way of asking: `concurrency` requests of `batch` pictures are on their way always."""

    shape: Shape
    batch: int
    shared_memory: SharedMemory
    concurrency: int


class LoadTarget(Bounds, frozen=True, kw_only=True):
    """A limit for a system of `gpus` GPUs."""

    figure: LoadFigure
    gpus: Count


class Load(Fixed, frozen=True, kw_only=True):
    """Photos through the whole system over HTTP."""

    name: str
    model: str
    width: Count
    height: Count
    scale: Annotated[int, Meta(ge=1, le=4)]
    clients_per_gpu: Count
    photos_per_gpu: Count
    target: Annotated[tuple[LoadTarget, ...], Meta(min_length=1)]

    def for_gpus(self, gpus: int) -> list[LoadTarget]:
        """Its targets for that many GPUs."""
        return [target for target in self.target if target.gpus == gpus]


class Targets(Fixed, frozen=True, kw_only=True):
    """The whole file."""

    regression: Annotated[float, Meta(gt=0, lt=1)] = 0.1
    """A figure that is worse than the accepted one by more than this share fails the run."""
    row: tuple[Row, ...]
    load: tuple[Load, ...]

    def __post_init__(self) -> None:
        names = self.names()
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"the name {name!r} stands twice")

    def names(self) -> list[str]:
        """Of all rows, then of all loads."""
        return [row.name for row in self.row] + [load.name for load in self.load]


def read_targets(path: Path = TARGETS) -> Targets:
    """Raises `msgspec.ValidationError`, which names the field, when the file does not fit."""
    return msgspec.toml.decode(path.read_bytes(), type=Targets)
