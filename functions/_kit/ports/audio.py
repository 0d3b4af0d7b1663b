"""Sound of any container and codec, as one of the targets that we write."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from functions._kit.errors import Unprocessable

AudioFormat = Literal["wav", "flac", "mp3"]

AUDIO_TYPES: dict[AudioFormat, str] = {
    "wav": "audio/wav",
    "flac": "audio/flac",
    "mp3": "audio/mpeg",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioTarget:
    """What a conversion writes; samples have 16 bits."""

    format: AudioFormat = "wav"
    sample_rate: int = 16_000
    """Samples a second."""
    channels: int = 1

    @property
    def name(self) -> str:
        """A file name that no other target has."""
        return f"{self.sample_rate}-{self.channels}.{self.format}"


SPEECH = AudioTarget()
"""What speech recognition takes: 16 kHz, mono, 16 bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sound:
    """What a conversion has read and written."""

    duration_s: float
    """Of what was written, by its samples."""
    container: str
    codec: str
    size_bytes: int
    """Of the file that was written."""


class AudioTooLong(Unprocessable):
    """The sound lasts longer than the caller takes (code `audio_too_long`).

    `duration_s` tells how long, where the file's header says so.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        field: str | None = None,
        duration_s: float | None = None,
    ) -> None:
        super().__init__(code, message, field=field)
        self.duration_s = duration_s


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversionFigures:
    """Conversions of one process since its start; `at once` limits hold for it alone."""

    active: int
    max_concurrent: int
    waiting: int
    completed: int
    failed: int
    total_time_s: float
    """Of the completed ones, from their start to their end, waiting left out."""


class AudioConverter(Protocol):
    """Converts files, a limited number at a time, where no bad file can harm this process."""

    async def convert(
        self, source: Path, into: Path, target: AudioTarget, *, longest_s: float
    ) -> Sound:
        """Write the first audio stream of `source` to the file `into`.

        Memory is bounded whatever the length. When this call is cancelled, the work stops.
        Where it raises, `into` is not left behind:
        - `UnsupportedMedia` (`unsupported_audio`): the content is of no format that is read
        - `Unprocessable` (`no_sound`): a container without an audio stream
        - `Unprocessable` (`undecodable_audio`): truncated to nothing, broken, or absurd in its
          rate or channels
        - `AudioTooLong`: longer than `longest_s` seconds; at once where the header says so
        - `TooManyRequests` (`too_many_conversions`): as many wait as may
        """
        ...

    def figures(self) -> ConversionFigures:
        """What this process converts now and has converted."""
        ...
