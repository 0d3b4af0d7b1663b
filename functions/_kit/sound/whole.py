"""Whether a file was cut, where its container says how long it is.

WAV, AIFF, MP4 and Matroska tell the sizes of their parts. OGG, MP3, AAC and recordings of unknown
size are streams: what is there is what was sent.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from functions._kit.sound.refusals import undecodable

UNKNOWN_FROM = 0x7FFF_0000
"""Sizes that programs write into a WAV whose length they do not know when they begin."""
MAX_BOXES = 100_000
"""Of a fragmented MP4 of many hours."""
MATROSKA_SEGMENT = 0x18538067


def check_whole(source: Path, demuxer: str) -> None:
    """Raise `Unprocessable` (`undecodable_audio`) for a file that ends before its container."""
    check = _CHECKS.get(demuxer)
    if check is None:
        return
    size = source.stat().st_size
    with source.open("rb") as file:
        if check(file, size):
            raise undecodable("is cut: it ends before the end that its header tells")


def _wav_is_cut(file: BinaryIO, size: int) -> bool:
    head = file.read(12)
    if head[:4] != b"RIFF":  # RF64 keeps its sizes elsewhere, RIFX turns them round
        return False
    place = 12
    while place + 8 <= size:
        file.seek(place)
        head = file.read(8)
        length = int.from_bytes(head[4:], "little")
        if head[:4] == b"data":
            return length < UNKNOWN_FROM and place + 8 + length > size
        place += 8 + length + length % 2
    return True


def _aiff_is_cut(file: BinaryIO, size: int) -> bool:
    length = int.from_bytes(file.read(8)[4:], "big")
    return length < UNKNOWN_FROM and 8 + length > size


def _mov_is_cut(file: BinaryIO, size: int) -> bool:
    place, seen = 0, set[bytes]()
    for _ in range(MAX_BOXES):
        file.seek(place)
        head = file.read(16)
        if len(head) < 8:
            break
        length, name = struct.unpack(">I4s", head[:8])
        if length == 1 and len(head) == 16:
            (length,) = struct.unpack(">Q", head[8:])
        elif length == 0:
            length = size - place
        if length < 8:
            break
        seen.add(name)
        place += length
        if place > size:
            return True
    return b"moov" not in seen


def _matroska_is_cut(file: BinaryIO, size: int) -> bool:
    place = 0
    for _ in range(2):  # the EBML header, then the segment
        file.seek(place)
        found = _element(file.read(16))
        if found is None:
            return False
        name, head_bytes, length = found
        if length is None:
            return False
        place += head_bytes + length
        if name == MATROSKA_SEGMENT:
            break
    return place > size


def _element(head: bytes) -> tuple[int, int, int | None] | None:
    """Id, size of the head, and size of the content; None as content for an unknown size."""
    if len(head) < 16 or not head[0]:
        return None
    id_bytes = 9 - head[0].bit_length()
    first = head[id_bytes]
    if id_bytes > 4 or not first:
        return None
    size_bytes = 9 - first.bit_length()
    mask = (1 << 7 * size_bytes) - 1
    length = int.from_bytes(head[id_bytes : id_bytes + size_bytes], "big") & mask
    return (
        int.from_bytes(head[:id_bytes], "big"),
        id_bytes + size_bytes,
        None if length == mask else length,
    )


_CHECKS: dict[str, Callable[[BinaryIO, int], bool]] = {
    "wav": _wav_is_cut,
    "aiff": _aiff_is_cut,
    "mov": _mov_is_cut,
    "matroska": _matroska_is_cut,
}
