"""The first audio stream of a file, as blocks of samples at the target's rate and channels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import av
from av.container import InputContainer

from functions._kit.ports.audio import AudioTarget
from functions._kit.sound import decoded, opus, straight
from functions._kit.sound.formats import CODECS, Recognised, recognise
from functions._kit.sound.refusals import no_sound, undecodable
from functions._kit.sound.whole import check_whole

CHANNELS = range(1, 9)
RATES = range(4_000, 384_001)
STREAMS = frozenset({"ogg", "mp3", "aac", "amr", "matroska"})
"""Formats of which a beginning is whole in itself, where nothing tells their size."""
PADDING_S = 0.2
"""The most that an encoder adds to the end of an MP4's sound to fill its last packet."""
MISSING_S = 0.2
"""FLAC tells its samples exactly; a bit less than a block may be lost to a broken one."""


@dataclass(frozen=True, slots=True)
class Source:
    """An opened file."""

    container: InputContainer
    stream: av.AudioStream
    recognised: Recognised

    @property
    def duration_s(self) -> float | None:
        """As the header tells it, or None where it is unknown or a guess."""
        if not self.recognised.tells_duration:
            return None
        if self.stream.duration is not None and self.stream.time_base is not None:
            return float(self.stream.duration * self.stream.time_base)
        duration = self.container.duration
        return None if duration is None else duration / av.time_base

    def blocks(self, target: AudioTarget) -> Iterator[bytes]:
        """Interleaved 16-bit samples, about a second in each block.

        Raises `Unprocessable` (`undecodable_audio`) where there is nothing to decode, and where the
        file ends early though its header tells its length.
        """
        head = self.stream.codec_context.extradata
        if self.stream.codec_context.name == "opus" and opus.can_decode(head, target.sample_rate):
            found = straight.blocks(self, target)
        else:
            found = decoded.blocks(self, target)
        whole = self.duration_s if self.recognised.demuxer in {"mov", "flac"} else None
        yield from found if whole is None else _held_to(found, whole, target)

    def packets(self) -> Iterator[av.Packet[av.AudioStream]]:
        """The stream's packets, and an empty one at the end."""
        try:
            yield from self.container.demux(self.stream)
        except av.FFmpegError as error:
            if self.recognised.demuxer not in STREAMS:
                raise undecodable(f"is broken: {error.strerror}") from error


def _held_to(blocks: Iterator[bytes], whole_s: float, target: AudioTarget) -> Iterator[bytes]:
    """The blocks without the encoder's padding at the end; nothing may be missing there."""
    frame_bytes = 2 * target.channels
    per_s = frame_bytes * target.sample_rate
    padding_bytes = round(PADDING_S * target.sample_rate) * frame_bytes
    size, held = 0, b""
    for block in blocks:
        size += len(block)
        if len(block) > padding_bytes:
            yield held
            held = block
        else:
            held += block
    surplus = size - round(whole_s * target.sample_rate) * frame_bytes
    if -surplus > MISSING_S * per_s:
        raise undecodable(
            f"is cut: {size / per_s:.1f} s of the {whole_s:.1f} s that its header tells are there"
        )
    yield held[:-surplus] if 0 < surplus <= min(padding_bytes, len(held)) else held


@contextmanager
def open_source(path: Path) -> Iterator[Source]:
    """Open by content. Raises as `AudioConverter.convert` does for what cannot be decoded."""
    recognised = recognise(path)
    check_whole(path, recognised.demuxer)
    options = {
        "protocol_whitelist": "file",
        "format_whitelist": _NAMES.get(recognised.demuxer, recognised.demuxer),
        "codec_whitelist": ",".join(sorted(CODECS)),
        "skip_initial_bytes": str(recognised.begins_at),
    }
    try:
        container = av.open(
            f"file:{path}",
            "r",
            format=recognised.demuxer,
            container_options=options,
            metadata_errors="replace",
        )
    except av.FFmpegError as error:
        raise undecodable(f"is broken: {error.strerror}") from error
    with container:
        stream = _checked(container)
        stream.codec_context.thread_count = 1
        yield Source(container, stream, recognised)


_NAMES = {"matroska": "matroska,webm", "mov": "mov,mp4,m4a,3gp,3g2,mj2"}
"""Full names of demuxers, as `format_whitelist` compares them."""


def _checked(container: InputContainer) -> av.AudioStream:
    if not container.streams.audio:
        raise no_sound()
    stream = container.streams.audio[0]
    context = stream.codec_context
    if context is None or context.codec.name not in CODECS:
        named = "an unknown codec" if context is None else context.codec.name
        raise undecodable(f"holds sound in {named}, which is not read")
    if context.sample_rate not in RATES:
        raise undecodable(
            f"has a sample rate of {context.sample_rate} Hz; {RATES.start} to {RATES.stop - 1} "
            "are read"
        )
    if context.channels not in CHANNELS:
        raise undecodable(f"has {context.channels} channels; 1 to {CHANNELS.stop - 1} are read")
    return stream
