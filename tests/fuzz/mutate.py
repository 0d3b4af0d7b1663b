"""Files made wrong: bits flipped, cut, spliced, sizes inflated; checksums of PNG mended."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable, Sequence

PNG = b"\x89PNG\r\n\x1a\n"
HEADER = 256
"""Bytes at the beginning, where the traps are."""
SIZES = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def mutated(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """`data` with one to three things wrong; `others` are files to splice with."""
    for _ in range(rng.randint(1, 3)):
        change = rng.choice(CHANGES)
        data = change(data, rng.choice(others), rng) or b"\0"
    if data.startswith(PNG) and rng.random() < 0.7:
        data = with_checksums(data)
    return data


def _place(data: bytes, rng: random.Random) -> int:
    most = len(data) if rng.random() < 0.5 else min(HEADER, len(data))
    return rng.randrange(max(1, most))


def _bits(data: bytes, other: bytes, rng: random.Random) -> bytes:
    del other
    changed = bytearray(data)
    for _ in range(rng.randint(1, 12)):
        changed[_place(data, rng)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _noise(data: bytes, other: bytes, rng: random.Random) -> bytes:
    del other
    at, size = _place(data, rng), rng.randint(1, 64)
    return data[:at] + rng.randbytes(size) + data[at + size :]


def _cut(data: bytes, other: bytes, rng: random.Random) -> bytes:
    del other
    return data[: _place(data, rng)]


def _out(data: bytes, other: bytes, rng: random.Random) -> bytes:
    del other
    at = _place(data, rng)
    return data[:at] + data[at + rng.randint(1, 200) :]


def _again(data: bytes, other: bytes, rng: random.Random) -> bytes:
    del other
    at = _place(data, rng)
    part = data[at : at + rng.randint(1, 400)]
    return data[:at] + part * rng.randint(2, 40) + data[at:]


def _splice(data: bytes, other: bytes, rng: random.Random) -> bytes:
    return data[: _place(data, rng)] + other[_place(other, rng) :]


def _size(data: bytes, other: bytes, rng: random.Random) -> bytes:
    del other
    at, code = _place(data, rng), rng.choice((">I", "<I", ">H", "<H"))
    size = rng.choice(SIZES) if rng.random() < 0.8 else rng.getrandbits(32)
    written = struct.pack(code, size & (0xFFFF if code[1] == "H" else 0xFFFFFFFF))
    return data[:at] + written + data[at + len(written) :]


Change = Callable[[bytes, bytes, random.Random], bytes]
CHANGES: tuple[Change, ...] = (_bits, _bits, _noise, _cut, _out, _again, _splice, _size, _size)


def with_checksums(data: bytes) -> bytes:
    """A PNG whose chunks have the checksums that they should: else nobody reads them."""
    written, at = bytearray(PNG), len(PNG)
    while at + 12 <= len(data):
        (size,) = struct.unpack_from(">I", data, at)
        body = data[at + 4 : at + 8 + size]
        written += data[at : at + 4] + body + struct.pack(">I", zlib.crc32(body))
        at += 12 + size
    return bytes(written + data[at:])


def png(width: int, height: int, pixels: bytes, *, depth: int = 8, more: bytes = b"") -> bytes:
    """A grey PNG whose compressed pixels may be anything; `more` are chunks before them."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + bytes(4)

    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    return with_checksums(
        PNG + chunk(b"IHDR", header) + more + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


def text_bomb(size: int) -> bytes:
    """A chunk of compressed text that becomes `size` bytes."""
    body = b"Comment\0\0" + zlib.compress(bytes(size), 9)
    return struct.pack(">I", len(body)) + b"zTXt" + body + bytes(4)


def profile_bomb(size: int) -> bytes:
    """A chunk with a colour profile that becomes `size` bytes."""
    body = b"icc\0\0" + zlib.compress(bytes(size), 9)
    return struct.pack(">I", len(body)) + b"iCCP" + body + bytes(4)
