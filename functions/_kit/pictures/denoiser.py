"""Noise removal before enlarging: sliding 8 x 8 DCT with thresholds from the photo's own noise.

Yu and Sapiro, "DCT image denoising: a simple and effective image denoising algorithm" (IPOL 2011).
Against OpenCV's non-local means on photos with known noise it gains 1.5 to 5 dB in less time, and
it works in floating point, so that 16 bits stay 16 bits (figures: docs/pictures.md).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from functions._kit.errors import Unprocessable
from functions._kit.pictures.dct import (
    BLOCK,
    RING,
    Floats,
    backward,
    forward,
    from_opponent,
    to_opponent,
)
from functions._kit.pictures.noise import estimate_noise

_STEP = 2  # pixels between blocks; 4 loses 0.7 dB, and 1 would cost four times the work
_THRESHOLD = 2.7  # times sigma, as in the paper
_SIGMA_LEAST = 1.0 / 255  # one step of 8 bits: less is rounding
_STRIP_ROWS = 128
_HALO = 16  # a multiple of the block, beyond the 7 rows that a block reaches


def denoise(
    pixels: NDArray[Any],
    strength: float,
    *,
    on_progress: Callable[[float], None] | None = None,
) -> NDArray[Any]:
    """H x W x 3 pixels (uint8 or uint16) with the share `strength` (0 to 1) of their noise removed.

    Strength 0 returns the same object. Works by strips; `on_progress` gets the share done after
    each and may raise to cancel. Raises `Unprocessable` (`denoise_strength_out_of_range`).
    """
    if not 0 <= strength <= 1:
        raise Unprocessable(
            "denoise_strength_out_of_range",
            "denoise_strength must be between 0 and 1.",
            field="denoise_strength",
        )
    if strength == 0:
        return pixels
    sigma = np.maximum(estimate_noise(pixels), np.float32(_SIGMA_LEAST))
    thresholds = np.float32(_THRESHOLD) * sigma[:, RING]
    thresholds[:, 0] = -1  # the mean of a block stays
    result = np.empty(pixels.shape, pixels.dtype)
    height = pixels.shape[0]
    for top in range(0, height, _STRIP_ROWS):
        bottom = min(top + _STRIP_ROWS, height)
        result[top:bottom] = _strip(pixels, top, bottom, thresholds, strength)
        if on_progress is not None:
            on_progress(bottom / height)
    return result


def _strip(
    pixels: NDArray[Any], top: int, bottom: int, thresholds: Floats, strength: float
) -> NDArray[Any]:
    """The denoised rows from `top` to `bottom`; their neighbours are read as a halo."""
    first, last = max(top - _HALO, 0), min(bottom + _HALO, pixels.shape[0])
    noisy = to_opponent(pixels[first:last])
    clean = np.stack([_filter(noisy[..., c], thresholds[c]) for c in range(3)], axis=-1)
    clean = clean[top - first : bottom - first]
    noisy = noisy[top - first : bottom - first]
    return from_opponent(noisy + np.float32(strength) * (clean - noisy), pixels.dtype)


def _filter(channel: Floats, thresholds: Floats) -> Floats:
    """Mean of all blocks over a pixel, each weighted by how few coefficients it kept."""
    height, width = channel.shape
    down, right = -height % BLOCK, -width % BLOCK
    padded = np.pad(channel, ((BLOCK, BLOCK + down), (BLOCK, BLOCK + right)), mode="symmetric")
    total, weight = np.zeros_like(padded), np.zeros_like(padded)
    steps = range(0, BLOCK, _STEP)
    for dy in steps:
        for dx in steps:
            window = np.s_[dy : padded.shape[0] - BLOCK + dy, dx : padded.shape[1] - BLOCK + dx]
            _add_blocks(padded[window], total[window], weight[window], thresholds)
    inside = np.s_[BLOCK : BLOCK + height, BLOCK : BLOCK + width]
    return np.asarray(total[inside] / weight[inside], np.float32)


def _add_blocks(window: Floats, total: Floats, weight: Floats, thresholds: Floats) -> None:
    """Filter the blocks of one position of the grid, and add them and their weights."""
    rows, columns = window.shape[0] // BLOCK, window.shape[1] // BLOCK
    grid = window.reshape(rows, BLOCK, columns, BLOCK).transpose(0, 2, 1, 3)
    coefficients = forward(grid.reshape(-1, BLOCK * BLOCK))
    kept = np.abs(coefficients) > thresholds
    coefficients *= kept
    share = 1 / kept.sum(axis=1, dtype=np.float32)
    blocks = backward(coefficients) * share[:, None]
    grid_shape = (rows, columns, BLOCK, BLOCK)
    total += blocks.reshape(grid_shape).transpose(0, 2, 1, 3).reshape(window.shape)
    share = share.reshape(rows, 1, columns, 1)
    spread = np.broadcast_to(share, (rows, BLOCK, columns, BLOCK))
    weight += spread.reshape(window.shape)
