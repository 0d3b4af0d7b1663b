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
_NEW_SUBFILE_TYPE = 254  # TIFF 6.0; bit 0: a reduced version, bit 2: a mask


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
    position = 0
    for _ in range(_MAX_PARTS):
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
    """The pages of a TIFF that are pictures of their own, less reduced versions and masks."""
    pages = 0
    try:
        with open_source(source) as file:
            for kind in _tiff_directories(file):
                pages += not kind & 0b101
    except (struct.error, OverflowError, OSError):
        return max(pages, 2)  # libvips counted several, so more than one unless we know better
    return pages


def _tiff_directories(file: BinaryIO) -> Iterator[int]:
    """The NewSubfileType of each directory, from the first to the last."""
    head = file.read(16)
    order = "<" if head[:2] == b"II" else ">"
    big = head[2:4] in (b"+\0", b"\0+")
    count_code, entry_size, link_code = ("Q", 20, "Q") if big else ("H", 12, "I")
    (position,) = struct.unpack_from(order + link_code, head, 8 if big else 4)
    for _ in range(_MAX_PARTS):
        if not position:
            return
        file.seek(position)
        count_size = struct.calcsize(count_code)
        (count,) = struct.unpack(order + count_code, file.read(count_size))
        entries = file.read(min(count, _MAX_TAGS) * entry_size)
        yield _subfile_type(entries, entry_size, order, big=big)
        file.seek(position + count_size + count * entry_size)
        (position,) = struct.unpack(
            order + link_code, file.read(struct.calcsize(order + link_code))
        )


def _subfile_type(entries: bytes, entry_size: int, order: str, *, big: bool) -> int:
    for start in range(0, len(entries) - entry_size + 1, entry_size):
        (tag,) = struct.unpack_from(order + "H", entries, start)
        if tag == _NEW_SUBFILE_TYPE:
            (value,) = struct.unpack_from(order + "I", entries, start + (12 if big else 8))
            return int(value)
    return 0
