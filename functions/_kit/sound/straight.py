"""The way of OPUS: packets to libopus, which gives the target's rate and channels."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING

import av

from functions._kit.ports.audio import AudioTarget
from functions._kit.sound.opus import OpusDecoder
from functions._kit.sound.refusals import undecodable

if TYPE_CHECKING:
    from functions._kit.sound.reader import Source

OPUS_RATE = 48_000
"""Trims count samples of this rate, whatever rate is decoded (RFC 7845, 4.2)."""


def blocks(source: Source, target: AudioTarget) -> Iterator[bytes]:
    """Blocks of a second; broken packets are concealed, as a lost one would be."""
    frame_bytes = 2 * target.channels
    block_bytes = target.sample_rate * frame_bytes
    decoder = OpusDecoder(
        source.stream.codec_context.extradata or b"", target.sample_rate, target.channels
    )
    block = bytearray()
    whole = broken = skip = 0
    try:
        for packet in source.packets():
            if not packet.size:
                continue
            samples = decoder.decode(packet)
            if samples is None:
                broken += 1
                samples = decoder.conceal()
            else:
                whole += 1
            if packet.has_sidedata("skip_samples"):
                at_start, at_end = _trims(packet, target.sample_rate)
                skip += at_start * frame_bytes
                samples = samples[: max(0, len(samples) - at_end * frame_bytes)]
            if skip:
                skipped = min(skip, len(samples))
                samples, skip = samples[skipped:], skip - skipped
            block += samples
            if len(block) >= block_bytes:
                yield bytes(block)
                block.clear()
    finally:
        decoder.close()
    if broken >= whole:
        raise undecodable("is broken: most of its packets are not OPUS")
    yield bytes(block)


def _trims(packet: av.Packet[av.AudioStream], rate: int) -> tuple[int, int]:
    """Samples at `rate` to leave out at the packet's start and end (AV_PKT_DATA_SKIP_SAMPLES)."""
    at_start, at_end = struct.unpack_from("<II", bytes(packet.get_sidedata("skip_samples")))
    return round(at_start * rate / OPUS_RATE), round(at_end * rate / OPUS_RATE)
