"""Cuts a photo into equal tiles, and says which part of each tile's answer to keep.

A network's answer near the edge of a tile is wrong where it would have looked beyond. Neighbouring
tiles therefore overlap by two halos, and each gives up its halo. At the photo's own edge a tile
gives up nothing: it ends there, as the photo does, so the network pads both alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from functions._kit.errors import JobFailed


@dataclass(frozen=True, slots=True)
class Box:
    """Pixels from (top, left) up to but not including (bottom, right)."""

    top: int
    left: int
    bottom: int
    right: int

    def scaled(self, factor: int) -> Box:
        """The same box of the photo enlarged by `factor`."""
        return Box(self.top * factor, self.left * factor, self.bottom * factor, self.right * factor)

    def inside(self, outer: Box) -> Box:
        """This box as counted from `outer`'s corner."""
        return Box(
            self.top - outer.top,
            self.left - outer.left,
            self.bottom - outer.top,
            self.right - outer.left,
        )

    @property
    def rows(self) -> slice:
        """Index of an array's first axis."""
        return slice(self.top, self.bottom)

    @property
    def columns(self) -> slice:
        """Index of an array's second axis."""
        return slice(self.left, self.right)


@dataclass(frozen=True, slots=True)
class Tile:
    """What goes to the network (`source`) and what is kept (`kept`), both in photo pixels."""

    source: Box
    kept: Box


@dataclass(frozen=True, slots=True)
class TilePlan:
    """Tiles of one size, in rows from the top; `kept` covers every pixel exactly once."""

    height: int
    width: int
    rows: tuple[Span, ...]
    columns: tuple[Span, ...]

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)

    def __iter__(self) -> Iterator[Tile]:
        for row in self.rows:
            for column in self.columns:
                yield Tile(
                    Box(row.start, column.start, row.stop, column.stop),
                    Box(row.kept_start, column.kept_start, row.kept_stop, column.kept_stop),
                )

    @property
    def tile_height(self) -> int:
        """Height of every tile, in pixels."""
        return self.rows[0].stop

    @property
    def tile_width(self) -> int:
        """Width of every tile, in pixels."""
        return self.columns[0].stop

    @property
    def waste(self) -> float:
        """Pixels computed twice, as a share of the photo's."""
        computed = len(self) * self.tile_height * self.tile_width
        return computed / (self.height * self.width) - 1


@dataclass(frozen=True, slots=True)
class Span:
    """A tile along one axis: from `start` to `stop`, of which `kept_start` to `kept_stop` stays."""

    start: int
    stop: int
    kept_start: int
    kept_stop: int


def plan(
    height: int,
    width: int,
    *,
    halo: int,
    max_tile_pixels: int,
    max_tile_side: int = 0,
    parallel: int = 1,
) -> TilePlan:
    """The plan that computes least, when `parallel` tiles run at the same time.

    `max_tile_side` bounds height and width each, in pixels; 0: they have no bound of their own.
    Raises `JobFailed` (code `tile_too_small`) where the photo must be cut and a tile within the
    limits is all halo.
    """
    side = max_tile_side or max(height, width)
    grids = list(_grids(height, width, halo, max_tile_pixels, side))
    if not grids:
        limits = f"max_tile_pixels = {max_tile_pixels}"
        if max_tile_side:
            limits += f" or max_tile_side = {max_tile_side}"
        raise JobFailed(
            "tile_too_small",
            f"{limits} of the model is too small for its halo = {halo}: "
            "raise it in the model's config.pbtxt.",
        )

    def cost(grid: tuple[int, int]) -> tuple[int, int]:
        rows, columns = grid
        rounds = -(-rows * columns // parallel)
        tile = _extent(height, rows, halo) * _extent(width, columns, halo)
        return rounds * parallel * tile, rows * columns

    rows, columns = min(grids, key=cost)
    return TilePlan(height, width, _spans(height, rows, halo), _spans(width, columns, halo))


def _grids(
    height: int, width: int, halo: int, max_tile_pixels: int, side: int
) -> Iterator[tuple[int, int]]:
    """For every number of rows, the fewest columns (and one more) whose tiles are small enough."""
    for rows in range(1, height + 1):
        tile_height = _extent(height, rows, halo)
        widest = min(max_tile_pixels // tile_height, side) if tile_height <= side else 0
        if widest >= width:
            yield rows, 1
            yield from ((rows, 2),) if width > 1 else ()
            return  # more rows only add halo
        if widest > 2 * halo:
            columns = -(-(width - 2 * halo) // (widest - 2 * halo))
            yield rows, columns
            yield rows, columns + 1
        if rows > 1 and tile_height <= 2 * halo + 1:
            return  # no tile can be lower


def _extent(length: int, count: int, halo: int) -> int:
    """The shortest tile, `count` of which cover `length` with overlaps of two halos."""
    return min(length, -(-(length + 2 * halo * (count - 1)) // count))


def _spans(length: int, count: int, halo: int) -> tuple[Span, ...]:
    """Tiles of one length, spread evenly from edge to edge; kept parts meet amid the overlaps."""
    extent = _extent(length, count, halo)
    if extent == length:
        return (Span(0, length, 0, length),)
    starts = [index * (length - extent) // (count - 1) for index in range(count)]
    cuts = [0]
    cuts += [(left + extent + right) // 2 for left, right in pairwise(starts)]
    cuts.append(length)
    return tuple(
        Span(start, start + extent, cuts[index], cuts[index + 1])
        for index, start in enumerate(starts)
    )
