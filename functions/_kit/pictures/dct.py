"""8 x 8 block DCT and opponent colours, as noise removal needs them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

BLOCK = 8
# OpenBLAS spreads larger products over threads, which spin where the cores are busy: 8 times slower
_PRODUCT_ROWS = 48


def _dct_matrix() -> Floats:
    """The 64 x 64 orthonormal DCT-II of a flattened block."""
    k = np.arange(BLOCK)
    rows = np.sqrt(2 / BLOCK) * np.cos(np.pi * (2 * k[None] + 1) * k[:, None] / (2 * BLOCK))
    rows[0] /= np.sqrt(2)
    return np.kron(rows, rows).astype(np.float32)


_DCT = _dct_matrix()
# An orthonormal DCT over the three channels: grey, and two colour differences.
_OPPONENT = np.array(
    [[3**-0.5] * 3, [2**-0.5, 0, -(2**-0.5)], [6**-0.5, -2 * 6**-0.5, 6**-0.5]], np.float32
)
# Ring of each of the 64 coefficients: the sum of its vertical and horizontal frequency, 0 to 14.
RING = np.add.outer(np.arange(BLOCK), np.arange(BLOCK)).ravel()
RINGS = 2 * BLOCK - 1


def forward(blocks: Floats) -> Floats:
    """Coefficients of N x 64 flattened blocks."""
    return _times(blocks, _DCT.T)


def backward(coefficients: Floats) -> Floats:
    """Flattened blocks of N x 64 coefficients."""
    return _times(coefficients, _DCT)


def to_opponent(pixels: NDArray[Any]) -> Floats:
    """Three opponent channels of RGB samples, full scale = 1."""
    scaled = pixels.astype(np.float32) / np.float32(np.iinfo(pixels.dtype).max)
    return np.asarray(scaled @ _OPPONENT.T, np.float32)


def from_opponent(channels: Floats, dtype: np.dtype[Any]) -> NDArray[Any]:
    """RGB samples of opponent channels, rounded and clipped to the type."""
    full = np.iinfo(dtype).max
    samples: NDArray[Any] = np.clip(np.rint(channels @ _OPPONENT * np.float32(full)), 0, full)
    return samples.astype(dtype)


def _times(rows: Floats, matrix: Floats) -> Floats:
    """The product of N x 64 rows with a 64 x 64 matrix, by one thread."""
    result = np.empty_like(rows)
    whole = len(rows) - len(rows) % _PRODUCT_ROWS
    shape = (-1, _PRODUCT_ROWS, BLOCK * BLOCK)
    np.matmul(rows[:whole].reshape(shape), matrix, out=result[:whole].reshape(shape))
    np.matmul(rows[whole:], matrix, out=result[whole:])
    return result
