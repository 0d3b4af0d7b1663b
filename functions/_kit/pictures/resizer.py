"""Reduction by Lanczos, for a scale that a model lacks and for thumbnails."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyvips
from numpy.typing import NDArray

from functions._kit.errors import Unprocessable

_RGB = 3
_FORMATS = {np.dtype(np.uint8): "uchar", np.dtype(np.uint16): "ushort"}


def shrink(pixels: NDArray[Any], width: int, height: int) -> NDArray[Any]:
    """Reduce H x W x C pixels (uint8 or uint16, also a memmap) to the size by Lanczos3."""
    image = reduce_image(wrap(pixels), width, height)
    shape = (height, width, *pixels.shape[2:])
    return np.ndarray(shape, pixels.dtype, image.write_to_memory())


def wrap(pixels: NDArray[Any]) -> pyvips.Image:
    """A libvips image over the array's own memory; a contiguous array is not copied."""
    pixels = np.ascontiguousarray(pixels)
    height, width = pixels.shape[:2]
    bands = math.prod(pixels.shape[2:])
    data = pixels.data.cast("B")
    image = pyvips.Image.new_from_memory(data, width, height, bands, _FORMATS[pixels.dtype])
    return image.copy(interpretation=_interpretation(bands, pixels.dtype))


def reduce_image(image: pyvips.Image, width: int, height: int) -> pyvips.Image:
    """Reduce lazily by Lanczos3; the colour of transparent pixels does not bleed.

    Raises `Unprocessable` (`enlargement_refused`) where a side would grow.
    """
    if (width, height) == (image.width, image.height):
        return image
    if not (1 <= width <= image.width and 1 <= height <= image.height):
        raise Unprocessable(
            "enlargement_refused",
            f"A picture of {image.width} x {image.height} cannot be reduced to {width} x {height}. "
            "Ask for a size within it.",
        )
    kind, interpretation = image.format, image.interpretation
    if image.hasalpha():
        image = image.premultiply()
    elif kind == "ushort":
        image = image.cast("float")  # libvips' 12-bit weights darken 16 bits by 0.15%
    image = image.resize(width / image.width, vscale=height / image.height, kernel="lanczos3")
    if image.hasalpha():
        image = image.unpremultiply()
    if image.format != kind:
        image = image.rint().cast(kind)
    return image.copy(interpretation=interpretation)


def _interpretation(bands: int, dtype: np.dtype[Any]) -> str:
    wide = dtype == np.uint16
    if bands < _RGB:
        return "grey16" if wide else "b-w"
    return "rgb16" if wide else "srgb"
