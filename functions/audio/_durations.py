"""How long the files last that we have written ourselves: read from their headers."""

from __future__ import annotations

import struct
import wave
from collections.abc import Callable
from pathlib import Path

from functions._kit.ports import AudioFormat

HEAD_BYTES = 4096
"""More than stands before the first frame of a file of ours."""
_MPEG_RATES = (44_100, 48_000, 32_000)
"""Hz of MPEG-1; MPEG-2 has half of each, MPEG-2.5 a quarter (ISO 11172-3 and 13818-3)."""


def duration_of(file: Path, audio_format: AudioFormat) -> float:
    """Seconds of sound in `file`. Raises ValueError where its header does not tell."""
    try:
        return _READERS[audio_format](file)
    except (wave.Error, EOFError, struct.error, IndexError, ZeroDivisionError) as error:
        raise ValueError(f"no duration in the header of a {audio_format} file") from error


def _of_wav(file: Path) -> float:
    with wave.open(str(file), "rb") as sound:
        return sound.getnframes() / sound.getframerate()


def _of_flac(file: Path) -> float:
    """STREAMINFO comes first (RFC 9639, 8.2)."""
    head = _head(file)
    (packed,) = struct.unpack_from(">Q", head, 18)
    rate, samples = packed >> 44, packed & ((1 << 36) - 1)
    if head[:4] != b"fLaC" or not samples:
        raise ValueError("no length in STREAMINFO")
    return float(samples / rate)


def _of_mp3(file: Path) -> float:
    """The encoder's tag in the first frame: frames, and the samples that frame the sound."""
    head = _head(file)
    at = 0
    if head[:3] == b"ID3":
        at = 10 + sum(byte << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
    version, mono = head[at + 1] >> 3 & 3, head[at + 3] >> 6 == 3
    first = version == 3  # MPEG-1
    rate = _MPEG_RATES[head[at + 2] >> 2 & 3] >> {3: 0, 2: 1, 0: 2}.get(version, 0)
    tag = at + 4 + ((17 if mono else 32) if first else (9 if mono else 17))
    flags, frames = struct.unpack_from(">II", head, tag + 4)
    if head[tag : tag + 4] not in {b"Xing", b"Info"} or not flags & 1:
        raise ValueError("no tag of the encoder")
    encoder = tag + 8 + 4 * (flags & 1) + 2 * (flags & 2) + 25 * (flags & 4) + (flags & 8) // 2
    (added,) = struct.unpack_from(">I", head, encoder + 21)  # 12 bits before, 12 bits after
    samples = frames * (1152 if first else 576) - (added >> 20) - (added >> 8 & 0xFFF)
    return float(samples / rate)


def _head(file: Path) -> bytes:
    with file.open("rb") as content:
        return content.read(HEAD_BYTES)


_READERS: dict[AudioFormat, Callable[[Path], float]] = {
    "wav": _of_wav,
    "flac": _of_flac,
    "mp3": _of_mp3,
}
