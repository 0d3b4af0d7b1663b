"""Which containers and codecs are read, told by the content's first bytes alone.

The bytes choose the one libavformat demuxer that may run, so that nothing reaches a playlist, a
picture or a network protocol.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from functions._kit.sound.refusals import undecodable, unsupported

CODECS = frozenset(
    {
        *("aac", "aac_latm", "ac3", "alac", "amrnb", "amrwb", "dca", "eac3", "flac", "gsm"),
        *("adpcm_ima_qt", "adpcm_ima_wav", "adpcm_ms", "gsm_ms"),
        *("mp1", "mp1float", "mp2", "mp2float", "mp3", "mp3float"),
        *("opus", "libopus", "vorbis", "libvorbis"),
        *("pcm_alaw", "pcm_mulaw", "pcm_s8", "pcm_u8", "pcm_s16be", "pcm_s16le", "pcm_s24be"),
        *("pcm_s24le", "pcm_s32be", "pcm_s32le"),
        *("pcm_f32be", "pcm_f32le", "pcm_f64be", "pcm_f64le"),
    }
)
"""libavcodec's decoders that may run. None of video: looking at a film costs nothing then."""

HEAD_BYTES = 64
MAX_TAGS = 8
"""ID3 tags before the sound. One is usual."""
XING_BYTES = 4096
"""Where the first frame of an MP3 lies, with what an encoder wrote into it."""


@dataclass(frozen=True, slots=True)
class Recognised:
    """A container's libavformat demuxer, and where it begins, behind ID3 tags."""

    demuxer: str
    begins_at: int
    tells_duration: bool = True
    """False where the length is only estimated from the first frames' bit rate."""


def recognise(source: Path) -> Recognised:
    """What the file holds. Raises `UnsupportedMedia`, and `Unprocessable` for tags without sound.

    Tags are stepped over here and never parsed: they may hold anything, in any size.
    """
    size = source.stat().st_size
    if size == 0:
        raise undecodable("is empty")
    with source.open("rb") as file:
        begins_at = _behind_tags(file, size)
        file.seek(begins_at)
        head = file.read(HEAD_BYTES)
        demuxer = demuxer_of(head)
        if demuxer is None and begins_at:
            demuxer = "mp3"  # padding may stand between a tag and the first frame
        if demuxer is None:
            raise unsupported("is of no kind of sound or film that is read here")
        first = head + file.read(XING_BYTES)
    exact = demuxer not in {"mp3", "aac", "amr"} or (
        demuxer == "mp3" and any(mark in first for mark in (b"Xing", b"Info", b"VBRI"))
    )
    return Recognised(demuxer, begins_at, exact)


def demuxer_of(head: bytes) -> str | None:  # noqa: C901, PLR0911 - one per container
    """The demuxer for a file with this beginning, or None for none that is allowed."""
    if head.startswith(b"OggS"):
        return "ogg"
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return "matroska"
    if head.startswith(b"fLaC"):
        return "flac"
    if head[:4] in {b"RIFF", b"RIFX", b"RF64", b"BW64"} and head[8:12] == b"WAVE":
        return "wav"
    if head.startswith(b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb"):
        return "w64"
    if head[:4] == b"FORM" and head[8:12] in {b"AIFF", b"AIFC"}:
        return "aiff"
    if head.startswith(b"caff\0\x01"):
        return "caf"
    if head.startswith(b"#!AMR"):
        return "amr"
    if head[4:8] in {b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"}:
        return "mov"
    if len(head) > 2 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0:
        return _of_frame(head)
    return None


def _of_frame(head: bytes) -> str | None:
    """MPEG audio by the fields of its frame header (ISO 11172-3, 2.4.1.3; 13818-7, 6.2)."""
    layer = head[1] >> 1 & 3
    if layer == 0:
        return "aac" if head[1] & 0xF0 == 0xF0 else None
    version, bit_rate, rate = head[1] >> 3 & 3, head[2] >> 4, head[2] >> 2 & 3
    return "mp3" if version != 1 and bit_rate not in {0, 15} and rate != 3 else None


def _behind_tags(file: BinaryIO, size: int) -> int:
    """Where the last of the ID3v2 tags at the beginning ends (id3.org, ID3v2.4.0, 3.1)."""
    place = 0
    for _ in range(MAX_TAGS + 1):
        file.seek(place)
        head = file.read(10)
        if len(head) < 10 or head[:3] != b"ID3" or any(byte & 0x80 for byte in head[6:10]):
            return place
        footer = 10 if head[5] & 0x10 else 0
        place += 10 + footer + sum(byte << 7 * (3 - n) for n, byte in enumerate(head[6:10]))
        if place >= size:
            raise undecodable("ends within its ID3 tag")
    raise undecodable(f"begins with more than {MAX_TAGS} ID3 tags")
