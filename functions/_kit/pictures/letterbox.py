"""A picture inside a fixed rectangle, as detectors want it, decoded at a reduced size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyvips
from numpy.typing import NDArray

from functions._kit.capabilities import GREY
from functions._kit.errors import Unprocessable
from functions._kit.pictures.decoder import strictly, to_rgb
from functions._kit.pictures.encoder import flatten_on_white, to_8_bit
from functions._kit.pictures.formats import open_image
from functions._kit.pictures.header import MAX_PIXELS, TURNED, PictureInfo, probe

MIN_SIDE = 16
"""Pixels; of less nothing can be told."""


@dataclass(frozen=True, slots=True)
class Letterboxed:
    """A picture in the upper left corner of `pixels` (height x width x 3, uint8, RGB, upright).

    `inner_width` and `inner_height` are the pixels that it covers; grey is beyond.
    """

    pixels: NDArray[np.uint8]
    inner_width: int
    inner_height: int


def check_not_too_small(info: PictureInfo) -> None:
    """Raise `Unprocessable` (`picture_too_small`) below `MIN_SIDE`."""
    if min(info.width, info.height) < MIN_SIDE:
        raise Unprocessable(
            "picture_too_small",
            f"The picture has {info.width} x {info.height} pixels; at least {MIN_SIDE} on each "
            "side are needed to see anything.",
            field="file",
        )


def letterbox(
    source: bytes,
    *,
    width: int,
    height: int,
    multiple_of: int = 0,
    max_pixels: int = MAX_PIXELS,
) -> Letterboxed:
    """Decode `source` to fit a rectangle of `width` x `height` pixels, enlarged if need be.

    Where `multiple_of` is given, each side of the rectangle is cut down to its smallest multiple
    that still holds the picture: a detector has nothing to find in grey.

    JPEG is decoded at a half, a quarter or an eighth by its own DCT scaling. Raises as `decode`
    does, and `Unprocessable` (`picture_too_small`).
    """
    info = probe(source, max_pixels=max_pixels)
    check_not_too_small(info)
    scale = min(width / info.width, height / info.height)
    inner_width = max(1, round(info.width * scale))
    inner_height = max(1, round(info.height * scale))
    inner = strictly(
        info, lambda fail_on: _reduced(source, info, inner_width, inner_height, fail_on)
    )
    if multiple_of:
        width = -(-inner_width // multiple_of) * multiple_of
        height = -(-inner_height // multiple_of) * multiple_of
    pixels = np.full((height, width, 3), GREY, np.uint8)
    pixels[:inner_height, :inner_width] = inner
    return Letterboxed(pixels, inner_width, inner_height)


def _reduced(
    source: bytes, info: PictureInfo, width: int, height: int, fail_on: str
) -> NDArray[np.uint8]:
    factor = min(info.width / width, info.height / height)
    options: dict[str, int] = {}
    if info.format == "jpeg":
        options["shrink"] = next(n for n in (8, 4, 2, 1) if n <= factor or n == 1)
    image = open_image(source, info.format, access="sequential", fail_on=fail_on, **options)
    image = to_rgb(image, info)
    turned = info.orientation in TURNED
    stored_width, stored_height = (height, width) if turned else (width, height)
    # in the colours of the file: what an object is does not hang on its profile, and a
    # conversion would take three times as long as all the rest
    image = image.resize(
        stored_width / image.width, vscale=stored_height / image.height, kernel="linear"
    )
    if image.hasalpha():
        image = flatten_on_white(image)
    image = to_8_bit(image)
    if image.bands == 1:
        image = image.bandjoin([image, image])
    if info.orientation != 1:
        image = image.copy_memory().copy()  # a turned picture is read out of order
        image.set_type(pyvips.GValue.gint_type, "orientation", info.orientation)
        image = image.autorot()
    return np.frombuffer(image.write_to_memory(), np.uint8).reshape(height, width, 3)
