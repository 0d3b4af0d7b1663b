"""What comes in by mistake or malice ends in a clear error, at once, and leaves nothing."""

from __future__ import annotations

import random
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from functions._kit.errors import RequestError
from functions._kit.ports import SPEECH, AudioTooLong, Sound
from functions._kit.sound import convert

COFFEE = Path(__file__).parents[2] / "data" / "coffee.png"
AT_ONCE_S = 20.0
"""Milliseconds, on a busy machine too; what reads on and on would take minutes."""


@pytest.fixture
def refused(tmp_path: Path) -> Callable[[Path | bytes], RequestError]:
    """Converts what must be refused, at once, and gives the error."""

    def run(source: Path | bytes) -> RequestError:
        if isinstance(source, bytes):
            path = tmp_path / "bad.opus"
            path.write_bytes(source)
        else:
            path = source
        into = tmp_path / "out.wav"
        began = time.perf_counter()
        with pytest.raises(RequestError) as raised:
            convert(path, into, SPEECH, longest_s=14_400)
        assert time.perf_counter() - began < AT_ONCE_S
        assert not into.exists()
        assert raised.value.field == "file"
        assert len(raised.value.message) < 300
        return raised.value

    return run


@pytest.fixture(scope="module")
def plain(encode_in: Any, tone: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two seconds of a tone in the common containers."""
    made = {
        "opus": ("ogg", "libopus", {}),
        "webm": ("webm", "libopus", {}),
        "live.webm": ("webm", "libopus", {"muxer": {"live": "1"}}),
        "mp3": ("mp3", "libmp3lame", {}),
        "m4a": ("ipod", "aac", {}),
        "fast.m4a": ("ipod", "aac", {"muxer": {"movflags": "faststart"}}),
        "fragmented.mp4": ("mp4", "aac", {"muxer": {"movflags": "frag_keyframe+empty_moov"}}),
        "aac": ("adts", "aac", {}),
        "flac": ("flac", "flac", {}),
        "wav": ("wav", "pcm_s16le", {}),
        "aiff": ("aiff", "pcm_s16be", {}),
    }
    samples, folder = tone(440, 2, 48_000), tmp_path_factory.mktemp("plain")
    return {
        name: encode_in(folder, f"plain.{name}", container, codec, samples, **options)
        for name, (container, codec, options) in made.items()
    }


@pytest.mark.parametrize(
    "content",
    [
        COFFEE.read_bytes(),
        b"\xff\xd8\xff\xe0" + bytes(100),
        b"just some words\n" * 100,
        random.Random(4).randbytes(100_000),
        b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n",
        b"<?xml version='1.0'?><MPD xmlns='urn:mpeg:dash:schema:mpd:2011'></MPD>",
        b"x",
    ],
    ids=["png", "jpeg", "text", "noise", "hls", "concat", "sdp", "dash", "a letter"],
)
def test_what_is_no_sound_is_of_an_unsupported_type(refused: Any, content: bytes) -> None:
    error = refused(content)
    assert (error.status, error.code) == (415, "unsupported_audio")
    assert "OPUS" in error.message


def test_a_playlist_opens_neither_files_nor_connections(tmp_path: Path, plain: Any) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        server.setblocking(False)
        there = f"http://127.0.0.1:{server.getsockname()[1]}/a.opus"
        for address in (there, f"file://{plain['wav']}", str(plain["wav"]), "plain.wav"):
            for text in (
                f"#EXTM3U\n#EXTINF:10,\n{address}\n",
                f"ffconcat version 1.0\nfile {address}\n",
            ):
                for head in (b"", b"ID3\4\0\0\0\0\0\0"):
                    path = tmp_path / "list.opus"
                    path.write_bytes(head + text.encode() * 20)
                    with pytest.raises(RequestError):
                        convert(path, tmp_path / "out.wav", SPEECH, longest_s=100)
        with pytest.raises(BlockingIOError):
            server.accept()


def test_an_empty_file_is_undecodable(refused: Any) -> None:
    assert refused(b"").code == "undecodable_audio"


@pytest.mark.parametrize(
    "name", ["webm", "m4a", "fast.m4a", "fragmented.mp4", "flac", "wav", "aiff"]
)
@pytest.mark.parametrize("share", [0.02, 0.4, 0.95])
def test_a_file_that_was_cut_is_refused_where_its_header_tells_its_length(
    refused: Any, plain: dict[str, Path], name: str, share: float
) -> None:
    whole = plain[name].read_bytes()
    error = refused(whole[: max(20, int(len(whole) * share))])
    assert (error.status, error.code) == (422, "undecodable_audio")


@pytest.mark.parametrize("name", ["opus", "mp3", "aac", "live.webm"])
def test_of_a_stream_that_was_cut_what_is_there_is_converted(
    plain: dict[str, Path], tmp_path: Path, name: str
) -> None:
    whole = plain[name].read_bytes()
    cut = tmp_path / "cut"
    cut.write_bytes(whole[: len(whole) * 6 // 10])
    assert 0.7 < convert(cut, tmp_path / "out.wav", SPEECH, longest_s=10).duration_s < 1.5


@pytest.mark.parametrize("name", ["opus", "mp3", "aac", "live.webm", "flac", "m4a", "wav"])
def test_of_which_nothing_is_left_is_undecodable(
    refused: Any, plain: dict[str, Path], name: str
) -> None:
    assert refused(plain[name].read_bytes()[:60]).code == "undecodable_audio"


@pytest.mark.parametrize(
    "head",
    [
        b"OggS", b"\x1a\x45\xdf\xa3", b"fLaC", b"\0\0\0\x18ftypisom", b"\xff\xfb\x90\0",
        b"\xff\xf1", b"RIFF\xff\xff\xff\xffWAVEfmt ", b"FORM\0\1\0\0AIFF", b"caff\0\x01\0\0",
    ],
    ids=["ogg", "matroska", "flac", "mp4", "mp3", "aac", "wav", "aiff", "caf"],
)  # fmt: skip
def test_noise_behind_a_true_beginning_is_undecodable(refused: Any, head: bytes) -> None:
    assert refused(head + random.Random(7).randbytes(100_000)).code == "undecodable_audio"


@pytest.mark.parametrize(
    ("header", "why"),
    [
        ({"channels": 32}, "32 channels"),
        ({"channels": 0}, "channels"),
        ({"rate": 1, "seconds": 100}, "1 Hz"),
        ({"rate": 500_000, "seconds": 0.1}, "500000 Hz"),
        ({"told_bytes": 1 << 30}, "cut"),
        ({"seconds": 0}, "nothing"),
    ],
    ids=str,
)
def test_an_absurd_header_is_undecodable(
    refused: Any, wav_of: Any, header: dict[str, Any], why: str
) -> None:
    error = refused(wav_of("absurd.wav", **header))
    assert error.code == "undecodable_audio"
    assert why in error.message


@pytest.mark.parametrize("told_bytes", [0x7FFF_FFFF, 0xFFFF_FFFF])
def test_a_wav_that_was_written_as_a_stream_is_taken(
    wav_of: Any, tmp_path: Path, told_bytes: int
) -> None:
    source = wav_of("stream.wav", told_bytes=told_bytes)
    assert convert(source, tmp_path / "out.wav", SPEECH, longest_s=10).duration_s == 1


def test_a_wav_that_tells_less_than_there_is_gives_what_it_tells(
    wav_of: Any, tmp_path: Path
) -> None:
    source = wav_of("short.wav", told_bytes=16_000)
    assert convert(source, tmp_path / "out.wav", SPEECH, longest_s=10).duration_s == 0.5


def test_a_day_of_silence_is_too_long_at_once(refused: Any, encode: Any) -> None:
    day = encode("day.flac", "flac", "flac", np.zeros(8_000 * 600, np.int16), rate=8_000)
    data = bytearray(day.read_bytes())
    assert data[4] & 0x7F == 0  # STREAMINFO, whose last 36 bits before the sum are the samples
    data[21] = data[21] & 0xF0 | (8_000 * 86_400 >> 32)
    data[22:26] = (8_000 * 86_400 & 0xFFFF_FFFF).to_bytes(4, "big")
    error = refused(bytes(data))
    assert isinstance(error, AudioTooLong)
    assert error.code == "audio_too_long"
    assert "86400 s" in error.message


@pytest.mark.parametrize("name", ["opus", "live.webm", "mp3", "aac", "wav"])
def test_sound_is_too_long_when_its_samples_are(
    plain: dict[str, Path], tmp_path: Path, name: str
) -> None:
    into = tmp_path / "out.wav"
    with pytest.raises(AudioTooLong, match="1 s at most"):
        convert(plain[name], into, SPEECH, longest_s=1.2)
    assert not into.exists()


def test_a_container_without_sound_has_no_sound(refused: Any, tmp_path: Path) -> None:
    for name, container in (("silent.mkv", "matroska"), ("silent.mp4", "mp4")):
        path = tmp_path / name
        with av.open(str(path), "w", format=container) as out:
            film: Any = out.add_stream("mpeg4", rate=10)
            film.width = film.height = 64
            film.pix_fmt = "yuv420p"
            for _ in range(5):
                pixels = np.zeros((64, 64, 3), np.uint8)
                out.mux(film.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
            out.mux(film.encode(None))
        error = refused(path)
        assert (error.status, error.code) == (422, "no_sound")


def test_a_codec_that_is_not_read_is_named(refused: Any, encode: Any, tone: Any) -> None:
    error = refused(encode("a.mkv", "matroska", "wavpack", tone(440, 1, 48_000)))
    assert error.code == "undecodable_audio"
    assert "wavpack" in error.message


def test_tags_that_never_end_are_refused(refused: Any, plain: dict[str, Path]) -> None:
    sound = plain["mp3"].read_bytes()
    for start in (
        b"ID3\4\0\0\x7f\x7f\x7f\x7f",
        b"ID3\4\0\0\0\0\0\x0a" + bytes(10),
    ):
        many = start if start[6] else start * 1000
        assert refused(many + sound).code == "undecodable_audio"


def test_huge_tags_cost_nothing(plain: dict[str, Path], tmp_path: Path) -> None:
    tagged = tmp_path / "tagged.mp3"
    size = 200 << 20
    with tagged.open("wb") as file:
        places = (size >> 21 & 127, size >> 14 & 127, size >> 7 & 127, size & 127)
        file.write(b"ID3\4\0\0" + bytes(places))
        file.seek(size, 1)  # a hole: no disk, and no memory either
        file.write(plain["mp3"].read_bytes())
    began = time.perf_counter()
    assert convert(tagged, tmp_path / "out.wav", SPEECH, longest_s=10).duration_s == 2
    assert time.perf_counter() - began < AT_ONCE_S


def test_times_that_go_backwards_do_not_matter(plain: dict[str, Path], tmp_path: Path) -> None:
    def convert_(data: bytes) -> Sound:
        path = tmp_path / "times.webm"
        path.write_bytes(data)
        return convert(path, tmp_path / "out.wav", SPEECH, longest_s=10)

    data = bytearray(plain["live.webm"].read_bytes())
    marks = [at for at in range(len(data) - 8) if data[at] == 0xA3 and data[at + 3] == 0x81]
    assert len(marks) > 50
    chance = random.Random(1)
    for at in marks:
        data[at + 4 : at + 6] = struct.pack(">h", chance.randint(-30_000, 30_000))
    assert abs(convert_(bytes(data)).duration_s - 2) < 0.05


def test_no_broken_byte_ends_in_anything_but_a_clear_error(
    plain: dict[str, Path], tmp_path: Path
) -> None:
    chance = random.Random(42)
    outcomes: set[str] = set()
    for name, path in plain.items():
        whole = path.read_bytes()
        for _ in range(20):
            data = bytearray(whole[: chance.randint(len(whole) // 2, len(whole))])
            for _ in range(chance.choice([1, 10, 200])):
                reach = chance.choice([200, len(data)])
                data[chance.randrange(min(reach, len(data)))] = chance.randrange(256)
            broken = tmp_path / f"broken.{name}"
            broken.write_bytes(bytes(data))
            try:
                sound = convert(broken, tmp_path / "out.wav", SPEECH, longest_s=100)
                assert 0 < sound.duration_s <= 100
                outcomes.add("converted")
            except RequestError as error:
                outcomes.add(error.code)
                assert not (tmp_path / "out.wav").exists() or "converted" in outcomes
    assert {"converted", "undecodable_audio"} <= outcomes
