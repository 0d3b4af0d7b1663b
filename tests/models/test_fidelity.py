"""A photo in tiles through Triton, against ONNX Runtime in FP32 on the whole photo."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from functions._kit.ports import Inference
from functions.media.upscale.tiles import TilePlan, plan
from gateway.adapters.inference import TritonInference

ROOT = Path(__file__).parents[2]
Photo = NDArray[np.uint8]


def photo(height: int, width: int) -> Photo:
    """RGB, from the middle of a photo: cup, spoon, wood."""
    image = cv2.cvtColor(cv2.imread(str(ROOT / "tests/data/coffee.png")), cv2.COLOR_BGR2RGB)
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
    return float(10 * np.log10(255**2 / np.mean(error.astype(float) ** 2)))


@pytest.mark.parametrize(
    ("name", "size", "max_tile_pixels"),
    [
        ("realesr-animevideov3-x2", (400, 600), 62_000),
        ("realesrgan-x4plus", (64, 224), 12_000),
    ],
)
async def test_tiles_are_as_true_as_the_whole_photo(
    triton_url: str, name: str, size: tuple[int, int], max_tile_pixels: int
) -> None:
    image = photo(*size)
    async with TritonInference(triton_url) as inference:
        parameters = (await inference.model(name)).parameters
        halo, scale = int(parameters["halo"]), int(parameters["scale"])
        tiles = plan(*size, halo=halo, max_tile_pixels=max_tile_pixels)
        assert len(tiles) >= 2
        joined = await in_tiles(inference, name, image, tiles)
        whole = (await inference.infer(await inference.model(name), {"image": image[None]}))
    error = np.abs(joined.astype(np.int64) - onnx_runtime(name, image))
    assert psnr(error) >= 45
    border = border_mask(tiles, scale, distance=2)
    seam = np.abs(joined.astype(np.int64) - whole["upscaled"][0])
    print(f"{name}: {psnr(error):.1f} dB, border {error[border].mean():.4f}, "
          f"elsewhere {error[~border].mean():.4f}, seam max {seam.max()} mean {seam[border].mean():.4f}")
    assert seam.max() <= 1, "cutting changed a pixel by more than the last bit"


@pytest.mark.parametrize("scale", [2, 3, 4])
async def test_a_halo_of_all_convolutions_changes_nothing(triton_url: str, scale: int) -> None:
    name = f"realesr-animevideov3-x{scale}"
    image = photo(150, 240)
    async with TritonInference(triton_url) as inference:
        model = await inference.model(name)
        tiles = plan(150, 240, halo=int(model.parameters["halo"]), max_tile_pixels=12_000)
        assert len(tiles) >= 4
        joined = await in_tiles(inference, name, image, tiles)
        whole = (await inference.infer(model, {"image": image[None]}))["upscaled"][0]
    difference = np.abs(joined.astype(np.int64) - whole)
    print(name, len(tiles), difference.max(), (difference>0).sum())
    assert (difference == 0).all()
