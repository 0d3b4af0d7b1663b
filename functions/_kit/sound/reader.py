"""The first audio stream of a file, as blocks of samples at the target's rate and channels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import av
from av.container import InputContainer
from av.stream import Discard

from functions._kit.ports.audio import AudioTarget
from functions._kit.sound import decoded, opus, straight
from functions._kit.sound.formats import CODECS, Recognised, recognise
from functions._kit.sound.ogg import Span, links
from functions._kit.sound.refusals import no_sound, undecodable
from functions._kit.sound.whole import check_whole

_NAMES = {"matroska": "matroska,webm", "mov": "mov,mp4,m4a,3gp,3g2,mj2"}
"""Full names of demuxers, as `format_whitelist` compares them."""

CHANNELS = range(1, 9)
RATES = range(4_000, 384_001)
MISGUESS = 4.0
"""How far a guess by the first frames' bit rate may be off, where they are silent."""
STREAMS = frozenset({"ogg", "mp3", "aac", "amr", "matroska"})
"""Formats of which a beginning is whole in itself, where nothing tells their size."""
PADDING_S = 0.2
"""The most that an encoder adds to a sound to fill its first and last packets: headers may count
it, and it is not heard."""
ROUNDING = 64
"""Samples that resamplers may keep or add."""
MAY_MISS = {"mov": 0.05, "flac": 0.001, "ogg": 0.5}
"""Of the length that a header tells, the share that may be missing: FLAC counts its samples, and
OGG tells its last page's time, however many of its pages are broken."""


@dataclass(frozen=True, slots=True)
class Source:
    """An opened file, or one link of a chained one."""

    path: Path
    recognised: Recognised
    container: InputContainer
    stream: av.AudioStream
    more: tuple[Span, ...]
    """The links behind this one."""

    @property
    def duration_s(self) -> float | None:
        """As the header tells it, the least where that is a guess, None where it is unknown."""
        told = None if self.more else self._told_s
        if told is None or self.recognised.tells_duration:
            return told
        return told / MISGUESS

    def blocks(self, target: AudioTarget) -> Iterator[bytes]:
        """Interleaved 16-bit samples, about a second in each block.

        Raises `Unprocessable` (`undecodable_audio`) where there is nothing to decode, and where the
        file ends early though its header tells its length.
        """
        try:
            yield from self._own_blocks(target)
        except av.FFmpegError as error:
            if isinstance(error, MemoryError):
                raise
            raise undecodable(f"is broken: {error.strerror}") from error
        for span in self.more:
            with _opened(self.path, self.recognised, (span,)) as link:
                yield from link.blocks(target)

    def packets(self) -> Iterator[av.Packet[av.AudioStream]]:
        """The stream's packets, and an empty one at the end."""
        try:
            yield from self.container.demux(self.stream)
        except av.FFmpegError as error:
            if self.recognised.demuxer not in STREAMS or isinstance(error, MemoryError):
                raise

    @property
    def _told_s(self) -> float | None:
        if self.stream.duration is not None and self.stream.time_base is not None:
            return float(self.stream.duration * self.stream.time_base)
        duration = self.container.duration
        return None if duration is None else duration / av.time_base

    def _own_blocks(self, target: AudioTarget) -> Iterator[bytes]:
        context = self.stream.codec_context
        if context.name == "opus" and opus.can_decode(context.extradata, target.sample_rate):
            found = straight.blocks(self, target)
        else:
            found = decoded.blocks(self, target)
        told_s = self._told_s
        may_miss = MAY_MISS.get(self.recognised.demuxer)
        if told_s is None or may_miss is None:
            return found
        return held_to(found, told_s, target, may_miss=may_miss)


def held_to(
    blocks: Iterator[bytes], told_s: float, target: AudioTarget, *, may_miss: float
) -> Iterator[bytes]:
    """The blocks without an encoder's padding behind `told_s` seconds.

    Raises `Unprocessable` (`undecodable_audio`) where more than the share `may_miss` is missing.
    """
    frame_bytes = 2 * target.channels
    padding_bytes = round(PADDING_S * target.sample_rate) * frame_bytes
    told_bytes = round(told_s * target.sample_rate) * frame_bytes
    size, held = 0, b""
    for block in blocks:
        size += len(block)
        if len(block) > padding_bytes:
            yield held
            held = block
        else:
            held += block
    if size < (1 - may_miss) * told_bytes - frame_bytes * ROUNDING:
        there_s = size / frame_bytes / target.sample_rate
        raise undecodable(
            f"is cut or broken: {there_s:.1f} s of the {told_s:.1f} s that its header tells can be "
            "decoded"
        )
    surplus = size - told_bytes
    yield held[:-surplus] if 0 < surplus <= min(padding_bytes, len(held)) else held


@contextmanager
def open_source(path: Path) -> Iterator[Source]:
    """Open by content. Raises as `AudioConverter.convert` does for what cannot be decoded."""
    recognised = recognise(path)
    check_whole(path, recognised.demuxer)
    spans = tuple(links(path)) if recognised.demuxer == "ogg" else ()
    with _opened(path, recognised, spans) as source:
        yield source


@contextmanager
def _opened(path: Path, recognised: Recognised, spans: tuple[Span, ...]) -> Iterator[Source]:
    name = recognised.demuxer
    options = {
        "protocol_whitelist": "file,subfile",
        "format_whitelist": _NAMES.get(name, name),
        "codec_whitelist": ",".join(sorted(CODECS)),
        "skip_initial_bytes": str(recognised.begins_at),
    }
    address = f"file:{path}"
    if spans and spans[0] != (0, path.stat().st_size):
        begin, end = spans[0]
        address = f"subfile,,start,{begin},end,{end},,:{address}"
    try:
        container = av.open(
            address, "r", format=name, container_options=options, metadata_errors="replace"
        )
    except av.FFmpegError as error:
        raise undecodable(f"is broken: {error.strerror}") from error
    with container:
        stream = _checked(container)
        stream.codec_context.thread_count = 1
        for other in container.streams:
            if other.index != stream.index:
                other.discard = Discard.all  # a film's pictures need not even be read
        yield Source(path, recognised, container, stream, spans[1:])


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
