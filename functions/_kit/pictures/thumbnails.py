"""Small versions of a picture, decoded at a reduced size where the format allows."""

from __future__ import annotations

from pathlib import Path

import pyvips

from functions._kit.pictures.decoder import to_rgb
from functions._kit.pictures.encoder import EncodedInfo, flatten_on_white, save, to_8_bit
from functions._kit.pictures.formats import FORMATS, WriteFormat, open_image
from functions._kit.pictures.header import MAX_PIXELS, PictureInfo, broken, probe

# Shrinking on load must leave this much for Lanczos to work on, or fine detail aliases.
_SPARE = 2


def thumbnail(
    path: Path,
    out_path: Path,
    *,
    longest_side: int,
    format: WriteFormat = "jpeg",  # noqa: A002 - the contract's word
    quality: int = 80,
    max_pixels: int = MAX_PIXELS,
) -> EncodedInfo:
    """Write a version that fits a square of `longest_side` pixels; never larger than the picture.

    8-bit sRGB without metadata, upright. Transparency stays, and lies on white in JPEG.
    Raises as `decode` does.
    """
    info = probe(path, max_pixels=max_pixels)
    try:
        image = reduced(path, info, longest_side)
        if image.hasalpha() and not FORMATS[format].alpha:
            image = flatten_on_white(image)
        image = to_8_bit(image).copy_memory()
    except pyvips.Error as error:
        raise broken(info.format, error) from error
    save(image, out_path, format, quality=quality)
    size = out_path.stat().st_size
    return EncodedInfo(image.width, image.height, size, FORMATS[format].content_type)


def reduced(path: Path, info: PictureInfo, longest_side: int) -> pyvips.Image:
    """An upright sRGB image within the square, read with shrink-on-load. Raises `pyvips.Error`."""
    factor = max(info.width, info.height) / longest_side
    image = open_image(
        path, info.format, access="sequential", fail_on="truncated", **_on_load(info, factor)
    )
    image = to_rgb(image, info)
    image = image.thumbnail_image(
        longest_side, height=longest_side, size="down", no_rotate=True, output_profile="srgb"
    )
    # a turned picture is read out of order, so the small one is held in memory
    image = image.copy_memory().copy()
    image.set_type(pyvips.GValue.gint_type, "orientation", info.orientation)
    return image.autorot()


def _on_load(info: PictureInfo, factor: float) -> dict[str, float]:
    if info.format == "jpeg":
        shrinks = [n for n in (8, 4, 2) if n * _SPARE <= factor]
        return {"shrink": shrinks[0]} if shrinks else {}
    if info.format == "webp" and factor > _SPARE:
        return {"scale": _SPARE / factor}
    return {}
