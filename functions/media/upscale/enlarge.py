"""A whole picture through the model, tile by tile; memory is bounded whatever its size."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from functions._kit.errors import JobFailed
from functions._kit.pictures import Picture
from functions._kit.ports import Inference, ServedModel
from functions.media.upscale.pace import Pace
from functions.media.upscale.tiles import Tile, plan

T = TypeVar("T")

TILES_PER_STREAM = 2
"""Tiles of one picture that Triton has at once, for each stream of the model: one that runs and
one that waits, so that no stream idles and another picture's tiles soon get their turn."""
CANVAS_IN_MEMORY_BYTES = 64 << 20
"""Larger results lie in a file that is mapped, so that the system may page them out."""


@dataclass(frozen=True, slots=True)
class Enlarged:
    """Pixels (H x W x 3) and alpha (H x W) at the model's scale."""

    pixels: NDArray[Any]
    alpha: NDArray[Any] | None


async def enlarge(
    picture: Picture,
    model: ServedModel,
    inference: Inference,
    *,
    scratch: Path,
    priority: int,
    on_progress: Callable[[float], None],
) -> Enlarged:
    """Enlarge by the model's own scale. Alpha goes through the model too, as a grey picture."""
    layers = 1 if picture.alpha is None else 2
    run = _Run(model, inference, priority, lambda done: on_progress(done / layers))
    pixels = await run.layer(picture.pixels, scratch / "canvas")
    if picture.alpha is None:
        return Enlarged(pixels, None)
    run = _Run(model, inference, priority, lambda done: on_progress((1 + done) / layers))
    return Enlarged(pixels, await run.layer(picture.alpha, scratch / "canvas-alpha"))


class _Run:
    def __init__(
        self,
        model: ServedModel,
        inference: Inference,
        priority: int,
        on_progress: Callable[[float], None],
    ) -> None:
        self._model = model
        self._inference = inference
        self._priority = priority
        self._on_progress = on_progress
        self._scale = int(model.parameters["scale"])
        self._streams = int(model.parameters.get("streams", "1"))
        self._wire = np.float32 if model.parameters.get("bits") == "16" else np.uint8

    async def layer(self, samples: NDArray[Any], file: Path) -> NDArray[Any]:
        """Enlarge H x W x 3 or H x W samples onto a canvas of the same type."""
        height, width = samples.shape[:2]
        tiles = plan(
            height,
            width,
            halo=int(self._model.parameters["halo"]),
            max_tile_pixels=int(self._model.parameters["max_tile_pixels"]),
            max_tile_side=int(self._model.parameters.get("max_tile_side", "0")),
            parallel=self._streams,
        )
        shape = (height * self._scale, width * self._scale, *samples.shape[2:])
        canvas = _canvas(shape, samples.dtype, file)
        pace = Pace(self._model.name, tiles, self._streams, self._on_progress)

        async def enlarge_one(tile: Tile) -> None:
            await self._tile(tile, samples, canvas)
            pace.tile_done()

        async with pace.told():
            await each(tiles, enlarge_one, at_once=TILES_PER_STREAM * self._streams)
        return canvas

    async def _tile(self, tile: Tile, samples: NDArray[Any], canvas: NDArray[Any]) -> None:
        source = samples[tile.source.rows, tile.source.columns]
        if source.ndim == 2:
            source = np.repeat(source[..., None], 3, axis=2)
        image = np.ascontiguousarray(source, dtype=self._wire)[None]
        answer = await self._inference.infer(self._model, {"image": image}, priority=self._priority)
        upscaled = answer["upscaled"][0]
        expected = (image.shape[1] * self._scale, image.shape[2] * self._scale, 3)
        if upscaled.shape != expected:
            raise JobFailed(
                "model_contract_broken",
                f"{self._model.name} answered {upscaled.shape} where {expected} was due",
            )
        kept = tile.kept.inside(tile.source).scaled(self._scale)
        target = tile.kept.scaled(self._scale)
        part = upscaled[kept.rows, kept.columns]
        canvas[target.rows, target.columns] = part if canvas.ndim == 3 else part[..., 0]


async def each(items: Iterable[T], work: Callable[[T], Awaitable[None]], *, at_once: int) -> None:
    """Do `work` for every item, `at_once` at a time; the first error stops the rest."""
    waiting = iter(items)

    async def take() -> None:
        for item in waiting:
            await work(item)

    takers = [asyncio.create_task(take()) for _ in range(at_once)]
    try:
        await asyncio.gather(*takers)
    finally:
        for taker in takers:
            taker.cancel()
        await asyncio.gather(*takers, return_exceptions=True)


def _canvas(shape: tuple[int, ...], dtype: np.dtype[Any], file: Path) -> NDArray[Any]:
    if math.prod(shape) * dtype.itemsize <= CANVAS_IN_MEMORY_BYTES:
        return np.empty(shape, dtype)
    return np.memmap(file, dtype, mode="w+", shape=shape)
