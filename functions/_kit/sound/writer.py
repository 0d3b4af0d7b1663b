"""Files of 16-bit samples: WAV by our own header, FLAC and MP3 by libavcodec's encoders."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

import av
from av.audio.frame import AudioFrame

from functions._kit.errors import Unprocessable
from functions._kit.ports.audio import AudioTarget

WAV_HEADER = struct.Struct("<4sI4s4sIHHIIHH4sI")
WAV_MAX_BYTES = 0xFFFF_FFFF - WAV_HEADER.size
"""RIFF counts in 32 bits."""
PCM = 1


class Writer(Protocol):
    """Takes samples and counts them."""

    samples: int
    """Of each channel."""

    def write(self, block: bytes) -> None:
        """Write interleaved 16-bit samples."""
        ...


@contextmanager
def open_writer(into: Path, target: AudioTarget) -> Iterator[Writer]:
    """Write the target's format; the file is complete when the block is left without an error."""
    if target.format == "wav":
        with into.open("wb") as file:
            wav = _Wav(file, target)
            yield wav
            wav.finish()
        return
    with av.open(str(into), "w", format=target.format) as container:
        encoded = _Encoded(container, target)
        yield encoded
        encoded.finish()


def check_fits(target: AudioTarget, duration_s: float) -> None:
    """Raise `Unprocessable` (`unsupported_target`) for more sound than the target's file holds."""
    if target.format == "wav" and duration_s * target.sample_rate * target.channels * 2 > (
        WAV_MAX_BYTES
    ):
        raise Unprocessable(
            "unsupported_target",
            f"target: {duration_s:.0f} s at {target.sample_rate} Hz are more than the 4 GiB that a "
            "WAV file holds; take flac, or a lower sample_rate.",
            field="target",
        )


class _Wav:
    def __init__(self, file: BinaryIO, target: AudioTarget) -> None:
        self.samples = 0
        self._file = file
        self._target = target
        file.write(self._header())

    def write(self, block: bytes) -> None:
        self._file.write(block)
        self.samples += len(block) // (2 * self._target.channels)

    def finish(self) -> None:
        self._file.seek(0)
        self._file.write(self._header())

    def _header(self) -> bytes:
        rate, channels = self._target.sample_rate, self._target.channels
        frame_bytes = 2 * channels
        size = self.samples * frame_bytes
        return WAV_HEADER.pack(
            *(b"RIFF", WAV_HEADER.size - 8 + size, b"WAVE"),
            *(b"fmt ", 16, PCM, channels, rate, rate * frame_bytes, frame_bytes, 16),
            *(b"data", size),
        )


class _Encoded:
    def __init__(self, container: av.container.OutputContainer, target: AudioTarget) -> None:
        self.samples = 0
        self._container = container
        self._target = target
        self._layout = "mono" if target.channels == 1 else "stereo"
        codec = "libmp3lame" if target.format == "mp3" else "flac"
        stream = container.add_stream(codec, rate=target.sample_rate, layout=self._layout)
        if not isinstance(stream, av.AudioStream):
            raise TypeError(f"{codec} makes no audio stream")
        self._stream = stream
        if target.format == "mp3":
            self._stream.bit_rate = mp3_bit_rate(target)
        else:
            self._stream.format = "s16"

    def write(self, block: bytes) -> None:
        samples = len(block) // (2 * self._target.channels)
        if samples:
            frame = AudioFrame("s16", self._layout, samples)
            frame.planes[0].update(block)
            frame.sample_rate = self._target.sample_rate
            frame.pts = self.samples
            self._container.mux(self._stream.encode(frame))
            self.samples += samples

    def finish(self) -> None:
        self._container.mux(self._stream.encode(None))


def mp3_bit_rate(target: AudioTarget) -> int:
    """Bits a second: transparent for music at 32 kHz and more, the most that lower rates allow."""
    if target.sample_rate >= 32_000:
        return 96_000 * target.channels
    if target.sample_rate >= 16_000:
        return 64_000 * target.channels
    return 32_000 * target.channels
