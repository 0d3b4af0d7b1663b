"""Pictures of a folder as batches of bytes, of the shape that an engine is made fastest for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from engines.errors import EngineError

GREY = 114
"""Beside a letterboxed picture, as docs/models.md says of a detector's input."""
KINDS = {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".avif", ".bmp"}


def pictures_in(folder: Path) -> list[Path]:
    """All pictures below the folder, by name. Raises EngineError where there is none."""
    if not folder.is_dir():
        raise EngineError(f"there is no folder of pictures {folder}")
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in KINDS)
    if not found:
        raise EngineError(f"{folder} holds no picture: calibration wants some hundred like yours")
    return found


def batches(
    files: list[Path], shape: tuple[int, ...], *, letterboxed: bool
) -> Iterator[NDArray[np.uint8]]:
    """Batches of `shape` (N, H, W, 3), RGB; what is left over of the last is not used.

    A tile is cut from the middle of a picture; for a detector the whole is fitted in.
    """
    count, height, width, _ = shape
    if len(files) < count:
        raise EngineError(f"{len(files)} pictures do not fill one batch of {count}: add some")
    for first in range(0, len(files) - count + 1, count):
        chosen = files[first : first + count]
        yield np.stack([_picture(file, width, height, letterboxed) for file in chosen])


def _picture(file: Path, width: int, height: int, letterboxed: bool) -> NDArray[np.uint8]:  # noqa: FBT001 - private
    try:
        with Image.open(file) as opened:
            whole = ImageOps.exif_transpose(opened).convert("RGB")
    except (OSError, UnidentifiedImageError) as error:
        raise EngineError(f"{file} is no picture that can be read: {error}") from error
    if letterboxed:
        whole = ImageOps.contain(whole, (width, height))
        canvas = Image.new("RGB", (width, height), (GREY, GREY, GREY))
        canvas.paste(whole, (0, 0))
        return np.asarray(canvas)
    scale = max(width / whole.width, height / whole.height, 1)
    if scale > 1:
        size = (max(width, round(whole.width * scale)), max(height, round(whole.height * scale)))
        whole = whole.resize(size)
    left, top = (whole.width - width) // 2, (whole.height - height) // 2
    return np.asarray(whole.crop((left, top, left + width, top + height)))
