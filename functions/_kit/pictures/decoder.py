"""A file's pixels as numpy arrays, upright, in RGB."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyvips
from numpy.typing import NDArray

from functions._kit.pictures.formats import open_image
from functions._kit.pictures.header import (
    MAX_PIXELS,
    TURNED,
    PictureInfo,
    broken,
    probe,
    unsupported_pixels,
)
from functions._kit.pictures.metadata import Metadata, read_metadata, with_sound_profile

Pixels = NDArray[Any]
T = TypeVar("T")
Allocate = Callable[[tuple[int, ...], np.dtype[Any]], Pixels]
"""Makes an array of this shape and type, with anything in it."""

# Rows per step: of 64, 128 and 256 the fastest for a 24-megapixel JPEG, at 5 MB beside its pixels.
_STRIP_ROWS = 128

_CMYK = 4
_WITH_ALPHA = (2, 4)  # bands of grey and of RGB with alpha

# libjpeg's warning for padding between scan and marker, which cameras do write.
_HARMLESS_JPEG = "extraneous bytes before marker"
_LOST_JPEG = ("premature end", "bad Huffman", "bad arithmetic", "instead of RST")


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded picture.

    `pixels` is H x W x 3 (RGB in the profile of `metadata`, uint8 or uint16), upright and
    contiguous; `grey` tells that its channels are equal. `alpha` is H x W of the same type, or None
    where every pixel is opaque.
    """

    pixels: Pixels
    alpha: Pixels | None
    grey: bool
    had_alpha: bool
    metadata: Metadata
    info: PictureInfo


def decode(path: Path, *, max_pixels: int = MAX_PIXELS, allocate: Allocate = np.empty) -> Picture:
    """Decode a whole picture; raises as `probe` does, and `JobFailed` (`corrupt_picture`).

    CMYK and Lab become sRGB. Floating-point, 32-bit, signed and many-banded pixels raise
    `Unprocessable` (`unsupported_pixel_format`). Memory: the pixels, and strips of a few rows.
    `allocate` is asked for the pixels, then for the alpha, if any, and both again where a JPEG is
    read a second time.
    """
    info = probe(path, max_pixels=max_pixels)
    return strictly(info, lambda fail_on: _decode(path, info, fail_on, allocate))


def strictly(info: PictureInfo, read: Callable[[str], T]) -> T:
    """What `read` makes of the file, given libvips' `fail_on`; every loss is an error.

    Raises `JobFailed` (`corrupt_picture`).
    """
    try:
        return read("warning" if info.format == "jpeg" else "error")
    except pyvips.Error as error:
        if not _only_padding(str(error)):
            raise broken(info.format, error) from error
    try:
        return read("error")
    except pyvips.Error as error:
        raise broken(info.format, error) from error


def _only_padding(message: str) -> bool:
    return _HARMLESS_JPEG in message and not any(lost in message for lost in _LOST_JPEG)


def _decode(path: Path, info: PictureInfo, fail_on: str, allocate: Allocate) -> Picture:
    opened = open_image(path, info.format, access="sequential", fail_on=fail_on)
    image = to_rgb(opened, info)
    colours = image.bands - (image.bands in _WITH_ALPHA)
    pixels, alpha = _read_by_strips(image, info.orientation, allocate)
    opaque = alpha is None or bool((alpha == np.iinfo(alpha.dtype).max).all())
    return Picture(
        pixels=pixels,
        alpha=None if opaque else alpha,
        grey=colours == 1,
        had_alpha=alpha is not None,
        metadata=read_metadata(image),
        info=info,
    )


def to_rgb(image: pyvips.Image, info: PictureInfo) -> pyvips.Image:
    """8- or 16-bit grey or RGB, with or without alpha. Raises `unsupported_pixel_format`."""
    image = with_sound_profile(image)
    kind = image.interpretation
    if kind in ("lab", "labq", "labs") and image.bands in (3, 4):
        image = image.colourspace("srgb" if kind == "labq" else "rgb16")
    if image.format not in ("uchar", "ushort"):
        raise unsupported_pixels(f"{image.format} samples")
    if kind == "cmyk" and image.bands == _CMYK:
        depth = 16 if image.format == "ushort" else 8
        return image.icc_transform("srgb", embedded=True, input_profile="cmyk", depth=depth)
    allowed = {"b-w": (1, 2), "grey16": (1, 2), "srgb": (3, 4), "rgb16": (3, 4)}
    if image.bands not in allowed.get(image.interpretation, ()):
        raise unsupported_pixels(f"{image.bands} channels of kind {kind}")
    if info.format in ("avif", "heic") and info.bit_depth in (10, 12):
        # libvips shifts 10 and 12 bits up; white must become 65,535
        image = (image | (image >> info.bit_depth)).cast("ushort")
    return image


def _read_by_strips(
    image: pyvips.Image, orientation: int, allocate: Allocate
) -> tuple[Pixels, Pixels | None]:
    """Pixels and alpha, turned while they are read: no second copy of the picture exists."""
    dtype = np.dtype(np.uint16 if image.format == "ushort" else np.uint8)
    width, height, bands = image.width, image.height, image.bands
    colours = bands - (bands in _WITH_ALPHA)
    upright = (width, height) if orientation in TURNED else (height, width)
    pixels = allocate((*upright, 3), dtype)
    alpha = allocate(upright, dtype) if bands in _WITH_ALPHA else None
    raw_pixels = as_stored(pixels, orientation)
    raw_alpha = None if alpha is None else as_stored(alpha, orientation)
    for top in range(0, height, _STRIP_ROWS):
        rows = min(_STRIP_ROWS, height - top)
        buffer = image.crop(0, top, width, rows).write_to_memory()
        strip = np.frombuffer(buffer, dtype).reshape(rows, width, bands)
        # one grey channel spreads over three
        raw_pixels[top : top + rows] = strip[..., :colours]
        if raw_alpha is not None:
            raw_alpha[top : top + rows] = strip[..., -1]
    return pixels, alpha


def as_stored(upright: Pixels, orientation: int) -> Pixels:
    """A view of an upright array in the order of a file with this EXIF orientation."""
    if orientation in TURNED:
        upright = upright.swapaxes(0, 1)
    # After the swap: which of the file's axes run backwards (EXIF 2.32, table of orientations)
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    if orientation in TURNED:
        rows, columns = (-1 if orientation in (6, 7) else 1), (-1 if orientation in (7, 8) else 1)
    return upright[::rows, ::columns]
