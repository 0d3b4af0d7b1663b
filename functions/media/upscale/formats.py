"""In which format and depth a result is written."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from functions._kit.errors import Unprocessable
from functions._kit.pictures import FORMATS, Picture, WriteFormat
from functions.media.contracts import Format

AS_INPUT: dict[str, WriteFormat] = {
    "jpeg": "jpeg", "png": "png", "webp": "webp", "tiff": "tiff", "avif": "avif",
    "gif": "png", "heic": "jpeg",
}  # fmt: skip
"""Without a wish: as it came, or the nearest format that can be written."""
AS_INPUT_LOSSLESS = AS_INPUT | {"jpeg": "png", "heic": "png"}


AVIF_MAX_PIXELS = 32_000_000
"""libvips' AVIF encoder takes 32 bytes a pixel (docs/pictures.md): this bounds it at 1 GB."""


def output_format(read: str, wish: Format | None, *, lossless: bool) -> WriteFormat:
    """The format of the result of a picture that came as `read`."""
    if wish is not None:
        return wish
    return (AS_INPUT_LOSSLESS if lossless else AS_INPUT)[read]


def check_size(wanted: WriteFormat, size: tuple[int, int]) -> None:
    """Raise `Unprocessable` before the work rather than after it."""
    if wanted == "avif" and size[0] * size[1] > AVIF_MAX_PIXELS:
        raise Unprocessable(
            "picture_too_large_for_format",
            f"avif results may have {AVIF_MAX_PIXELS} pixels, and this one would have "
            f"{size[0] * size[1]}; choose webp, jpeg or png, or a smaller scale_factor",
            field="parameters.output.format",
        )
    limit = FORMATS[wanted].longest_side
    if limit is not None and max(size) > limit:
        raise Unprocessable(
            "picture_too_large_for_format",
            f"{wanted} holds at most {limit} pixels a side, and the result would have "
            f"{size[0]} x {size[1]}; choose png or a smaller scale_factor",
            field="parameters.output.format",
        )


def to_8_bit(picture: Picture) -> Picture:
    """The picture with 8 bits a sample, rounded (65,535 = 257 x 255)."""
    if picture.pixels.dtype == np.uint8:
        return picture
    alpha = picture.alpha
    return replace(
        picture,
        pixels=_rounded(picture.pixels),
        alpha=None if alpha is None else _rounded(alpha),
    )


def _rounded(
    samples: np.ndarray[tuple[int, ...], np.dtype[np.uint16]],
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    eight = np.empty(samples.shape, np.uint8)
    for row in range(0, len(samples), 256):  # strips: the 32-bit middle stays small
        strip = samples[row : row + 256].astype(np.uint32)
        eight[row : row + 256] = (strip + 128) // 257
    return eight
