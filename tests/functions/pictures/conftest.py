from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import pyvips
from numpy.typing import NDArray

from functions._kit.pictures import decode

PHOTO = Path(__file__).parents[2] / "data" / "pictures" / "chelsea.png"
SAVERS: dict[str, tuple[str, dict[str, int | str]]] = {
    "jpeg": (".jpg", {"Q": 90}),
    "png": (".png", {}),
    "webp": (".webp", {"Q": 90}),
    "gif": (".gif", {}),
    "tiff": (".tif", {"compression": "lzw"}),
    "avif": (".avif", {"Q": 80, "effort": 1}),
}


@pytest.fixture(scope="session")
def photo() -> NDArray[np.uint8]:
    """A real photo, 224 x 256 x 3."""
    return decode(PHOTO).pixels


@pytest.fixture(scope="session")
def image() -> pyvips.Image:
    """The same photo in libvips."""
    return pyvips.Image.pngload(str(PHOTO)).copy_memory()


@pytest.fixture(scope="session")
def small_files(image: pyvips.Image) -> dict[str, bytes]:
    """A small file of each format that is read."""
    part = image.crop(0, 0, 48, 40)
    return {
        name: bytes(part.write_to_buffer(suffix, **options))
        for name, (suffix, options) in SAVERS.items()
    }


@pytest.fixture
def put(tmp_path: Path) -> Callable[[bytes], Path]:
    """Writes bytes into a file whose name tells nothing."""

    def write(data: bytes) -> Path:
        path = tmp_path / "upload"
        path.write_bytes(data)
        return path

    return write


@pytest.fixture
def png_chunk() -> Callable[[bytes, bytes], bytes]:
    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)

    return chunk


@pytest.fixture(scope="session")
def grey_profile() -> bytes:
    """The smallest ICC profile of one channel: linear light (ICC.1:2010, gamma 1)."""
    white = b"XYZ \0\0\0\0" + struct.pack(">iii", 0xF6D6, 0x10000, 0xD32D)
    curve = b"curv\0\0\0\0" + struct.pack(">I", 0)
    text = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"grey\0" + bytes(78)
    copyright_text = b"text\0\0\0\0CC0\0"
    tags, body, at = b"", b"", 128 + 4 + 4 * 12
    for name, data in (
        (b"wtpt", white),
        (b"kTRC", curve),
        (b"desc", text),
        (b"cprt", copyright_text),
    ):
        padded = data + bytes(-len(data) % 4)
        tags += name + struct.pack(">II", at + len(body), len(data))
        body += padded
    header = struct.pack(
        ">I4sI4s4s4s", at + len(body), bytes(4), 0x02400000, b"mntr", b"GRAY", b"XYZ "
    )
    header += struct.pack(">6H", 2024, 1, 1, 0, 0, 0) + b"acsp" + bytes(28)
    header += struct.pack(">iii", 0xF6D6, 0x10000, 0xD32D)
    header += bytes(128 - len(header))
    return header + struct.pack(">I", 4) + tags + body
