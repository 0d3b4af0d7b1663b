"""The errors of files that cannot be converted; each says why and what to send instead."""

from __future__ import annotations

from functions._kit.errors import Unprocessable, UnsupportedMedia
from functions._kit.ports.audio import AudioTooLong

FIELD = "file"
READ = "OPUS, OGG, WebM, MP3, M4A, AAC, FLAC, WAV, AIFF, CAF, AMR, or the sound of MP4 or MKV"


def unsupported(why: str) -> UnsupportedMedia:
    """For content of no format that is read."""
    return UnsupportedMedia("unsupported_audio", f"The file {why}. Send {READ}.", field=FIELD)


def undecodable(why: str) -> Unprocessable:
    """For a file of a known format that is broken or absurd."""
    return Unprocessable(
        "undecodable_audio", f"The file {why}. Send it whole, in its ordinary form.", field=FIELD
    )


def no_sound() -> Unprocessable:
    """For a container without an audio stream."""
    return Unprocessable(
        "no_sound", "The file holds no audio stream. Send one that has sound.", field=FIELD
    )


def too_long(longest_s: float, duration_s: float | None = None) -> AudioTooLong:
    """For sound beyond what the caller takes; `duration_s` where the file says it."""
    lasts = "longer" if duration_s is None else f"{duration_s:.0f} s"
    return AudioTooLong(
        "audio_too_long",
        f"The sound may last {longest_s:.0f} s at most and lasts {lasts}. Send it in parts.",
        field=FIELD,
        duration_s=duration_s,
    )
