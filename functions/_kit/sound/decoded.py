"""The general way: libavcodec decodes, libswresample brings it to the target."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import av
from av.audio.fifo import AudioFifo
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler

from functions._kit.ports.audio import AudioTarget
from functions._kit.sound.refusals import undecodable

if TYPE_CHECKING:
    from functions._kit.sound.reader import Source

LAYOUTS = {3: "2.1", 4: "4.0", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}
"""Where a file names no speakers (av_channel_layout_default of libavutil)."""

LOUD_AS_ONE = {"rematrix_volume": "1.4142135623730951"}
"""libswresample would give each of two channels a mono sound at -3 dB."""


def blocks(source: Source, target: AudioTarget) -> Iterator[bytes]:
    """Blocks of about a second.

    Frames are gathered before they are resampled: a call for each frame of 20 ms takes twice as
    long in all.
    """
    context = source.stream.codec_context
    if context.layout.name.endswith("channels") and context.channels in LAYOUTS:
        context.layout = LAYOUTS[context.channels]
    gathered: _Gathered | None = None
    frames = broken = 0
    for packet in source.packets():
        decoded = _frames(context, packet)
        broken += decoded is None
        for frame in decoded or ():
            frames += 1
            if gathered is None:
                gathered = _Gathered(frame, target)
            elif not gathered.takes(frame):
                yield gathered.rest()
                gathered = _Gathered(frame, target)
            if gathered.add(frame):
                yield gathered.resampled()
    if gathered is None:
        raise undecodable("holds nothing that can be decoded")
    if broken > frames:
        raise undecodable("is broken: most of its packets cannot be decoded")
    yield gathered.rest()


def _frames(
    context: av.AudioCodecContext, packet: av.Packet[av.AudioStream]
) -> list[AudioFrame] | None:
    """None for a broken packet; decoders return many a number for those."""
    try:
        return context.decode(packet)
    except av.FFmpegError as error:
        if isinstance(error, MemoryError):
            raise
        return None


class _Gathered:
    """Frames of one kind, up to a second of them, and the resampler for that kind."""

    def __init__(self, frame: AudioFrame, target: AudioTarget) -> None:
        self._kind = _kind(frame)
        self._block = frame.sample_rate
        self._frame_bytes = 2 * target.channels
        self._fifo = AudioFifo()
        layout = "mono" if target.channels == 1 else "stereo"
        one_to_two = frame.layout.nb_channels == 1 and target.channels == 2
        self._resampler = AudioResampler(
            "s16", layout, target.sample_rate, options=LOUD_AS_ONE if one_to_two else None
        )

    def takes(self, frame: AudioFrame) -> bool:
        """Whether the frame is of the same kind: a stream may change its rate and channels."""
        return _kind(frame) == self._kind

    def add(self, frame: AudioFrame) -> bool:
        """Keep the frame; True when there is a second of them."""
        frame.pts = None  # broken times shall not matter, only samples
        self._fifo.write(frame)
        return self._fifo.samples >= self._block

    def resampled(self) -> bytes:
        """What there is, as the target wants it."""
        gathered = self._fifo.read()
        if gathered is None:
            return b""
        gathered.pts = None
        return self._bytes(self._resampler.resample(gathered))

    def rest(self) -> bytes:
        """The last of it."""
        return self.resampled() + self._bytes(self._resampler.resample(None))

    def _bytes(self, frames: Sequence[AudioFrame | None]) -> bytes:
        return b"".join(
            memoryview(frame.planes[0])[: frame.samples * self._frame_bytes]
            for frame in frames
            if frame is not None
        )


def _kind(frame: AudioFrame) -> tuple[str, str, int]:
    return frame.format.name, frame.layout.name, frame.sample_rate
