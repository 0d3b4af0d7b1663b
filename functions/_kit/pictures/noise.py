"""How much noise a photo has, by frequency: JPEG and cameras have taken some of them away."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from functions._kit.pictures.dct import BLOCK, RING, RINGS, Floats, forward, to_opponent

# At random places, and so off the grid on which JPEG has set most high frequencies to zero.
_BLOCKS = 20_000
# The flattest blocks show the noise; a larger share takes fur for it where all is fur.
_FLAT_SHARE = 0.02
# Rings 1 to 4 tell flat blocks from others and so cannot tell noise; they get the fifth's.
_FIRST_RING = 5
_MAD_TO_SIGMA = 1.4826  # of a normal distribution


def estimate_noise(pixels: NDArray[Any]) -> Floats:
    """Sigma of the noise of H x W x 3 pixels: 3 x 15, full scale = 1.

    Rows are grey and two colour differences, columns the rings of `dct.RING`. Taken from the
    flattest blocks, so that texture is not taken for noise; zeros below 8 x 8 pixels.
    """
    if min(pixels.shape[:2]) < BLOCK:
        return np.zeros((3, RINGS), np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(pixels, (BLOCK, BLOCK), axis=(0, 1))
    places = np.random.default_rng(0).integers(0, windows.shape[:2], (_BLOCKS, 2))
    blocks = windows[places[:, 0], places[:, 1]].reshape(_BLOCKS, 3, BLOCK * BLOCK)
    channels = to_opponent(_unclipped(blocks).swapaxes(1, 2))
    return np.stack([_by_ring(forward(np.ascontiguousarray(channels[..., c]))) for c in range(3)])


def _by_ring(coefficients: Floats) -> Floats:
    shape = (RING > 0) & (RING < _FIRST_RING)
    energy = (coefficients[:, shape] ** 2).sum(axis=1)
    flattest = np.argsort(energy)[: max(1, int(len(energy) * _FLAT_SHARE))]
    size = np.abs(coefficients[flattest])
    rings = [max(ring, _FIRST_RING) for ring in range(RINGS)]
    sigmas = [_MAD_TO_SIGMA * np.median(size[:, ring == RING]) for ring in rings]
    return np.array(sigmas, np.float32)


def _unclipped(blocks: NDArray[Any]) -> NDArray[Any]:
    """The blocks without a sample at black or white, where noise is cut off; all, if none is."""
    full = np.iinfo(blocks.dtype).max
    whole = (blocks.min(axis=(1, 2)) > 0) & (blocks.max(axis=(1, 2)) < full)
    return blocks[whole] if whole.any() else blocks
