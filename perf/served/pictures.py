"""What is sent: the same photographs to Triton and to the bare engine."""

from __future__ import annotations

import base64
from pathlib import Path

import msgspec
import numpy as np
import pyvips
from numpy.typing import NDArray

from gateway.settings import CHECKOUT

PHOTOS = CHECKOUT / "tests" / "data" / "detection"


def pictures(height: int, width: int) -> list[NDArray[np.uint8]]:
    """Photographs that fill [height, width, 3]: RGB, 0 to 255."""
    return [_filling(path, height, width) for path in sorted(PHOTOS.glob("*.jpg"))]


def _filling(path: Path, height: int, width: int) -> NDArray[np.uint8]:
    image = pyvips.Image.thumbnail(str(path), width, height=height, crop="centre")
    return np.ascontiguousarray(image.colourspace("srgb")[:3].numpy(), dtype=np.uint8)


def write_input_data(path: Path, tensor: str, height: int, width: int) -> Path:
    """perf_analyzer's file of inputs: it sends one after the other, again and again."""
    data = [
        {tensor: {"b64": base64.b64encode(picture.tobytes()).decode(), "shape": picture.shape}}
        for picture in pictures(height, width)
    ]
    path.write_bytes(msgspec.json.encode({"data": data}))
    return path
