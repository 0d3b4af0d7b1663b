"""A photo in tiles through Triton, against ONNX Runtime in FP32 on the whole photo."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from functions._kit.pictures import decode
from functions._kit.ports import Inference
from functions.media.upscale.tiles import TilePlan, plan
from gateway.adapters.inference import TritonInference

ROOT = Path(__file__).parents[2]
Photo = NDArray[np.uint8]


def photo(height: int, width: int) -> Photo:
    """RGB, from the middle of a photo: cup, spoon, wood."""
    image = decode(ROOT / "tests/data/coffee.png").pixels
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return np.ascontiguousarray(image[top : top + height, left : left + width], np.uint8)


def onnx_runtime(model: str, image: Photo) -> Photo:
    session = onnxruntime.InferenceSession(str(ROOT / f"model_repository/{model}/1/model.onnx"))
    return np.asarray(session.run(None, {"image": image[None]})[0][0], np.uint8)


async def in_tiles(inference: Inference, name: str, image: Photo, tiles: TilePlan) -> Photo:
    model = await inference.model(name)
    scale = int(model.parameters["scale"])
    canvas = np.zeros((image.shape[0] * scale, image.shape[1] * scale, 3), np.uint8)
    for tile in tiles:
        source = np.ascontiguousarray(image[tile.source.rows, tile.source.columns])
        upscaled = (await inference.infer(model, {"image": source[None]}))["upscaled"][0]
        kept = tile.kept.inside(tile.source).scaled(scale)
        target = tile.kept.scaled(scale)
        canvas[target.rows, target.columns] = upscaled[kept.rows, kept.columns]
    return canvas


def border_mask(tiles: TilePlan, scale: int, distance: int) -> NDArray[np.bool_]:
    """Pixels of the result within `distance` photo pixels of where two tiles meet."""
    mask = np.zeros((tiles.height * scale, tiles.width * scale), bool)
    for row in tiles.rows[1:]:
        mask[(row.kept_start - distance) * scale : (row.kept_start + distance) * scale] = True
    for column in tiles.columns[1:]:
        left = (column.kept_start - distance) * scale
        mask[:, left : (column.kept_start + distance) * scale] = True
    return mask


def psnr(error: NDArray[np.int64]) -> float:
    """Decibels; infinite where there is no error at all."""
    square = float(np.mean(error.astype(float) ** 2))
    return 10 * math.log10(255**2 / square) if square else math.inf


@pytest.mark.parametrize(
    ("name", "size", "max_tile_pixels"),
    [
        ("realesr-animevideov3-x2", (200, 400), 26_000),
        pytest.param("realesrgan-x4plus", (48, 200), 7_600, marks=pytest.mark.long),
    ],
)
async def test_a_photo_in_tiles_is_true_to_the_model_and_shows_no_seam(
    triton_url: str, name: str, size: tuple[int, int], max_tile_pixels: int
) -> None:
    image = photo(*size)
    async with TritonInference(triton_url) as inference:
        parameters = (await inference.model(name)).parameters
        tiles = plan(*size, halo=int(parameters["halo"]), max_tile_pixels=max_tile_pixels)
        joined = await in_tiles(inference, name, image, tiles)
    assert len(tiles) >= 3
    error = np.abs(joined.astype(np.int64) - onnx_runtime(name, image))
    border = border_mask(tiles, int(parameters["scale"]), distance=2)
    assert psnr(error) >= 45
    assert psnr(error[border]) >= 45
    # Rounding alone makes errors of one level; a twentieth of a level on average shows nowhere.
    assert error[border].max() <= max(1, error[~border].max())
    assert error[border].mean() <= error[~border].mean() + 0.05


@pytest.mark.parametrize(("scale", "share"), [(2, 0), (3, 1e-4), (4, 0)])
async def test_a_halo_as_deep_as_the_network_changes_nothing(
    triton_url: str, scale: int, share: float
) -> None:
    """Bit for bit; only x3 interpolates at thirds, whose last bit depends on where a tile lies."""
    name = f"realesr-animevideov3-x{scale}"
    image = photo(150, 240)
    async with TritonInference(triton_url) as inference:
        model = await inference.model(name)
        tiles = plan(150, 240, halo=int(model.parameters["halo"]), max_tile_pixels=12_000)
        joined = await in_tiles(inference, name, image, tiles)
        whole = (await inference.infer(model, {"image": image[None]}))["upscaled"][0]
    assert len(tiles) >= 4
    difference = np.abs(joined.astype(np.int64) - whole)
    assert difference.max() <= (1 if share else 0)
    assert (difference > 0).mean() <= share
