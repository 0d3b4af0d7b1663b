"""What libvips does not tell of a container: whether it moves, which TIFF pages are pictures."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from functions._kit.pictures.formats import ReadFormat

# No honest header has more parts; it bounds the work on a file made of empty ones.
_MAX_PARTS = 4096
_MAX_TAGS = 4096
_HEAD = 8  # a PNG chunk and an ISO box both start with a size and a kind, four bytes each
# Tags of TIFF 6.0
_NEW_SUBFILE_TYPE, _STRIP_OFFSETS, _TILE_OFFSETS = 254, 273, 324
_REDUCED_OR_MASK = 0b101  # bits of NewSubfileType


def open_source(source: Path | bytes) -> BinaryIO:
    """The source as a binary file."""
    return io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")


def is_animated(source: Path | bytes, name: ReadFormat) -> bool:
    """Whether the file is an APNG, or an AVIF or HEIF image sequence."""
    if name not in ("png", "avif", "heic"):
        return False
    with open_source(source) as file:
        if name == "png":
            return any(kind == b"acTL" and _frames(file) > 1 for kind in _png_chunks(file))
        if file.read(12)[8:] in (b"avis", b"hevc", b"hevx", b"msf1"):
            return True
        file.seek(0)
        return any(kind == b"moov" for kind in _boxes(file))


def _frames(file: BinaryIO) -> int:
    return int.from_bytes(file.read(4), "big")


def _png_chunks(file: BinaryIO) -> Iterator[bytes]:
    """The kinds of the chunks before the pixels; the file stands at each one's data."""
    position = 8
    for _ in range(_MAX_PARTS):
        file.seek(position)
        head = file.read(_HEAD)
        if len(head) < _HEAD or head[4:] == b"IDAT":
            return
        yield head[4:]
        position += 12 + int.from_bytes(head[:4], "big")


def _boxes(file: BinaryIO) -> Iterator[bytes]:
    """The kinds of the top-level boxes of an ISO base media file."""
    position, end = 0, file.seek(0, io.SEEK_END)
    for _ in range(_MAX_PARTS):
        if position >= end:  # 64 bits of size lead further than any file may be sought
            return
        file.seek(position)
        head = file.read(16)
        if len(head) < _HEAD:
            return
        size = int.from_bytes(head[:4], "big")
        if size == 1:
            size = int.from_bytes(head[8:16], "big")
        yield head[4:8]
        if size < _HEAD:
            return
        position += size


def tiff_pages(source: Path | bytes) -> int:
    """The pages of a TIFF that are pictures of their own, less reduced versions and masks.

    0 where its directories cannot be read.
    """
    pages = 0
    try:
        with open_source(source) as file:
            for tags in _tiff_directories(file):
                holds_pixels = _STRIP_OFFSETS in tags or _TILE_OFFSETS in tags
                pages += holds_pixels and not tags.get(_NEW_SUBFILE_TYPE, 0) & _REDUCED_OR_MASK
    except (struct.error, OverflowError, OSError, ValueError):
        return 0
    return pages


def _tiff_directories(file: BinaryIO) -> Iterator[dict[int, int]]:
    """Each directory's tags with the first 32 bits of their value, from the first page on."""
    head = file.read(16)
    order = "<" if head[:2] == b"II" else ">"
    big = head[2:4] in (b"+\0", b"\0+")
    count_code, link_code, entry_size = ("Q", "Q", 20) if big else ("H", "I", 12)
    entry = struct.Struct(order + ("H10xI4x" if big else "H6xI"))
    (position,) = struct.unpack_from(order + link_code, head, 8 if big else 4)
    for _ in range(_MAX_PARTS):
        if not position:
            return
        file.seek(position)
        (count,) = _read(file, order + count_code)
        entries = file.read(min(count, _MAX_TAGS) * entry_size)
        yield dict(entry.iter_unpack(entries))
        (position,) = _read(file, order + link_code)


def _read(file: BinaryIO, code: str) -> tuple[int, ...]:
    return struct.unpack(code, file.read(struct.calcsize(code)))
