"""OPUS straight from libopus: the same sound as by libavcodec, in every container."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from functions._kit.errors import Unprocessable
from functions._kit.ports import SPEECH, AudioTarget
from functions._kit.sound import convert, decoded, opus, straight
from functions._kit.sound.ogg import links
from functions._kit.sound.reader import Source, open_source

VOICE = Path(__file__).parents[2] / "data" / "sounds" / "two_cities.opus"
Way = Callable[[Source, AudioTarget], Iterator[bytes]]


def samples_by(way: Way, path: Path, target: AudioTarget = SPEECH) -> NDArray[np.float64]:
    with open_source(path) as source:
        return np.frombuffer(b"".join(way(source, target)), np.int16).astype(np.float64)


def snr_db(signal: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    noise = signal - other
    return float(10 * np.log10((signal @ signal) / (noise @ noise)))


def with_pages(data: bytes, change: Callable[[int, bytearray], None]) -> bytes:
    """The OGG with each page changed and its checksum (RFC 3533, 6) made right again."""
    out, place, number = b"", 0, 0
    while place < len(data):
        segments = data[place + 26]
        size = 27 + segments + sum(data[place + 27 : place + 27 + segments])
        page = bytearray(data[place : place + size])
        change(number, page)
        page[22:26] = bytes(4)
        page[22:26] = struct.pack("<I", ogg_crc(page))
        out, place, number = out + page, place + size, number + 1
    return out


def ogg_crc(page: bytearray) -> int:
    """OGG's sum is zlib's with bits turned round and nothing inverted."""
    turned = bytes(int(f"{byte:08b}"[::-1], 2) for byte in page)
    return int(f"{zlib.crc32(turned, 0xFFFFFFFF) ^ 0xFFFFFFFF:032b}"[::-1], 2)


def test_a_voice_is_the_same_as_by_the_general_way() -> None:
    for target in (SPEECH, AudioTarget(channels=2)):
        ours, theirs = (
            samples_by(straight.blocks, VOICE, target),
            samples_by(decoded.blocks, VOICE, target),
        )
        assert len(ours) == len(theirs) > 12 * 16_000
        assert snr_db(theirs, ours) > 20


@pytest.mark.parametrize("rate", sorted(opus.RATES))
@pytest.mark.parametrize("name", ["ogg", "webm", "matroska", "mp4"])
def test_no_container_adds_or_loses_a_sample(
    encode: Any, tone: Any, name: str, rate: int, tmp_path: Path
) -> None:
    source = encode(f"a.{name}", name, "libopus", tone(440, 1.234, 48_000))
    target = AudioTarget(sample_rate=rate)
    sound = convert(source, tmp_path / "out.wav", target, longest_s=10)
    assert abs(sound.duration_s * rate - 1.234 * rate) <= 1.5


def test_the_gain_of_the_header_is_heard(encode: Any, tone: Any, tmp_path: Path) -> None:
    def louder(number: int, page: bytearray) -> None:
        if number == 0:
            at = page.index(b"OpusHead") + 16
            page[at : at + 2] = struct.pack("<h", 6 * 256)  # 6 dB

    plain = encode("a.opus", "ogg", "libopus", tone(440, 2, 48_000, 0.2))
    loud = tmp_path / "loud.opus"
    loud.write_bytes(with_pages(plain.read_bytes(), louder))
    ratio = samples_by(straight.blocks, loud).std() / samples_by(straight.blocks, plain).std()
    assert abs(20 * np.log10(ratio) - 6) < 0.1


def test_a_broken_packet_is_concealed_by_as_much_sound() -> None:
    with open_source(VOICE) as source:
        decoder = opus.OpusDecoder(source.stream.codec_context.extradata or b"", 16_000, 1)
        packets = [packet for packet in source.packets() if packet.size]
    for packet in packets[:100]:
        assert len(decoder.decode(packet) or b"") == 640  # 20 ms
    assert decoder.decode(av.Packet(b"\xff" * 50)) is None
    made_up = np.frombuffer(decoder.conceal(), np.int16)
    assert len(made_up) == 320
    assert made_up.any()
    decoder.close()


def test_what_is_no_opus_is_refused(encode: Any, tone: Any, tmp_path: Path) -> None:
    def spoil(number: int, page: bytearray) -> None:
        if number >= 2:
            at = 27 + page[26]
            page[at:] = b"\xff" * (len(page) - at)

    plain = encode("a.opus", "ogg", "libopus", tone(440, 2, 48_000))
    spoiled = tmp_path / "spoiled.opus"
    spoiled.write_bytes(with_pages(plain.read_bytes(), spoil))
    with pytest.raises(Unprocessable) as refused:
        convert(spoiled, tmp_path / "out.wav", SPEECH, longest_s=10)
    assert refused.value.code == "undecodable_audio"


def test_every_link_of_a_chained_file_is_converted(encode: Any, tone: Any, tmp_path: Path) -> None:
    parts = [
        encode("a.opus", "ogg", "libopus", tone(440, 1, 48_000)),
        encode("b.opus", "ogg", "libopus", tone(880, 2, 48_000), layout="stereo"),
        encode("c.ogg", "ogg", "vorbis", tone(660, 3, 44_100), rate=44_100, layout="stereo",
               strict="-2"),
    ]  # fmt: skip
    chained = tmp_path / "chained.ogg"
    chained.write_bytes(b"".join(part.read_bytes() for part in parts))
    assert [end - begin for begin, end in links(chained)] == [p.stat().st_size for p in parts]
    into = tmp_path / "out.wav"
    assert abs(convert(chained, into, SPEECH, longest_s=10).duration_s - 6) < 0.1
    samples = np.frombuffer(into.read_bytes()[44:], np.int16)
    for hz, start in ((440, 0.2), (880, 1.2), (660, 3.2)):
        piece = samples[round(start * 16_000) :][:8_000]
        assert abs(np.abs(np.fft.rfft(piece * np.hanning(8_000))).argmax() * 2 - hz) <= 2


def test_without_libopus_and_for_surround_the_general_way_is_taken(
    encode: Any, tone: Any, tmp_path: Path
) -> None:
    surround = encode("a.opus", "ogg", "libopus", tone(440, 2, 48_000), layout="5.1")
    with open_source(surround) as source:
        assert not opus.can_decode(source.stream.codec_context.extradata, 16_000)
    assert convert(surround, tmp_path / "out.wav", SPEECH, longest_s=10).duration_s == 2
    with open_source(VOICE) as source:
        head = source.stream.codec_context.extradata
    assert opus.can_decode(head, 16_000)
    assert not opus.can_decode(head, 44_100)
    assert not opus.can_decode(None, 16_000)
    assert not opus.can_decode(b"OpusHead", 16_000)


@pytest.mark.parametrize("container", ["ogg", "webm", "mp4"])
def test_what_an_encoder_adds_does_not_make_a_sound_too_long(
    encode: Any, tone: Any, tmp_path: Path, container: str
) -> None:
    source = encode(f"a.{container}", container, "libopus", tone(440, 2, 48_000))
    with open_source(source) as opened:
        assert opened.duration_s is not None
        assert opened.duration_s >= 2
    assert convert(source, tmp_path / "out.wav", SPEECH, longest_s=2).duration_s == 2
