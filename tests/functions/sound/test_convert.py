"""Tones and a voice through every codec: pitch, level and length, and what is written."""

from __future__ import annotations

import wave
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from functions._kit.errors import Unprocessable
from functions._kit.ports import SPEECH, AudioFormat, AudioTarget
from functions._kit.sound import check_target, convert

HZ, SECONDS = 440.0, 3.0
CODECS: list[tuple[str, str, str, dict[str, Any]]] = [
    ("opus", "ogg", "libopus", {}),
    ("webm", "webm", "libopus", {}),
    ("mkv", "matroska", "libopus", {}),
    ("opus.mp4", "mp4", "libopus", {}),
    ("ogg", "ogg", "vorbis", {"layout": "stereo", "strict": "-2"}),
    ("mp3", "mp3", "libmp3lame", {"rate": 44_100}),
    ("m4a", "ipod", "aac", {"rate": 44_100}),
    ("fragmented.mp4", "mp4", "aac", {"muxer": {"movflags": "frag_keyframe+empty_moov"}}),
    ("aac", "adts", "aac", {}),
    ("alac.m4a", "ipod", "alac", {"rate": 44_100}),
    ("flac", "flac", "flac", {"rate": 44_100}),
    ("wav", "wav", "pcm_s16le", {"layout": "stereo"}),
    ("8k.wav", "wav", "pcm_mulaw", {"rate": 8_000}),
    ("24.wav", "wav", "pcm_s24le", {"rate": 96_000}),
    ("rf64.wav", "wav", "pcm_f32le", {"muxer": {"rf64": "always"}}),
    ("5.1.mkv", "matroska", "ac3", {"layout": "5.1", "bit_rate": 448_000}),
    ("aiff", "aiff", "pcm_s16be", {}),
    ("caf", "caf", "pcm_s16be", {}),
]


def samples_of(path: Path) -> NDArray[np.float64]:
    """Rows of samples, one a channel, full scale 1, read by another program than ours."""
    if path.suffix == ".wav":
        with wave.open(str(path)) as file:
            assert file.getsampwidth() == 2
            assert path.stat().st_size == 44 + file.getnframes() * 2 * file.getnchannels()
            packed = np.frombuffer(file.readframes(file.getnframes()), np.int16)
            return np.asarray(packed.reshape(-1, file.getnchannels()).T, np.float64) / 32768
    with av.open(str(path)) as container:
        resampler = av.AudioResampler("s16")
        layout = container.streams.audio[0].codec_context.channels
        found = [f.to_ndarray() for d in container.decode(audio=0) for f in resampler.resample(d)]
    rows = np.concatenate(found, axis=1).reshape(-1, layout)
    return np.asarray(rows.T, np.float64) / 32768


def assert_is_tone(samples: NDArray[np.float64], rate: int, level: float = 0.5) -> None:
    """The frequency within 1 Hz, the level within 1 dB, nothing else above a hundredth of it."""
    middle = samples[rate // 2 : -rate // 2]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    hertz = np.fft.rfftfreq(len(middle), 1 / rate)
    assert abs(hertz[spectrum.argmax()] - HZ) < 1
    assert abs(20 * np.log10(np.sqrt(2) * middle.std() / level)) < 1
    assert spectrum[np.abs(hertz - HZ) > 20].max() < spectrum.max() / 100


@pytest.mark.parametrize(("name", "container", "codec", "options"), CODECS, ids=str)
def test_a_tone_keeps_pitch_level_and_length(
    encode: Any, tone: Any, tmp_path: Path, name: str, container: str, codec: str, options: Any
) -> None:
    rate = options.get("rate", 48_000)
    source = encode(f"tone.{name}", container, codec, tone(HZ, SECONDS, rate), **options)
    into = tmp_path / "out.wav"
    sound = convert(source, into, SPEECH, longest_s=10)
    samples = samples_of(into)
    assert samples.shape == (1, round(sound.duration_s * 16_000))
    assert abs(sound.duration_s - SECONDS) < 0.06
    if codec == "libopus" or codec.startswith("pcm") or codec in {"flac", "alac"}:
        assert abs(samples.shape[1] - SECONDS * 16_000) <= 4
    assert sound.size_bytes == into.stat().st_size
    assert_is_tone(samples[0], 16_000)


@pytest.mark.parametrize("format_", ["wav", "flac", "mp3"])
@pytest.mark.parametrize("rate", [8_000, 22_050, 48_000])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("source", [("opus", "ogg", "libopus"), ("flac", "flac", "flac")])
def test_each_target_has_its_rate_and_channels(
    encode: Any,
    tone: Any,
    tmp_path: Path,
    format_: AudioFormat,
    rate: int,
    channels: int,
    source: tuple[str, str, str],
) -> None:
    target = AudioTarget(format=format_, sample_rate=rate, channels=channels)
    path = encode(*source, tone(HZ, SECONDS, 48_000), layout="stereo")
    into = tmp_path / f"out.{format_}"
    sound = convert(path, into, target, longest_s=10)
    assert (sound.container, sound.codec) == (source[1], source[0])
    with av.open(str(into)) as written:
        context = written.streams.audio[0].codec_context
        assert (context.sample_rate, context.channels) == (rate, channels)
    samples = samples_of(into)
    assert len(samples) == channels
    assert abs(samples.shape[1] / rate - SECONDS) < 0.06
    for row in samples:
        assert_is_tone(row, rate)


def test_stereo_keeps_its_sides_and_mono_is_their_mean(
    encode: Any, tone: Any, tmp_path: Path
) -> None:
    sides = np.stack([tone(HZ, SECONDS, 48_000), np.zeros(round(SECONDS * 48_000), np.int16)])
    for name, codec in (("s.opus", "libopus"), ("s.mkv", "pcm_s16le")):
        container = "ogg" if codec == "libopus" else "matroska"
        source = encode(name, container, codec, sides, layout="stereo", bit_rate=128_000)
        into = tmp_path / "out.wav"
        convert(source, into, AudioTarget(sample_rate=48_000, channels=2), longest_s=10)
        left, right = samples_of(into)
        assert_is_tone(left, 48_000)
        assert right.std() < left.std() / 30
        convert(source, into, AudioTarget(sample_rate=48_000), longest_s=10)
        assert_is_tone(samples_of(into)[0], 48_000, level=0.25)


@pytest.mark.parametrize("channels", range(3, 9))
def test_a_wav_that_names_no_speakers_is_mixed_down(
    wav_of: Any, tmp_path: Path, channels: int
) -> None:
    source = wav_of("many.wav", channels=channels)
    assert convert(source, tmp_path / "out.wav", SPEECH, longest_s=10).duration_s == 1


def test_a_film_gives_its_sound(tone: Any, tmp_path: Path) -> None:
    for name, container in (("film.mp4", "mp4"), ("film.mkv", "matroska")):
        path = tmp_path / name
        with av.open(str(path), "w", format=container) as out:
            film: Any = out.add_stream("mpeg4", rate=10)
            film.width = film.height = 64
            film.pix_fmt = "yuv420p"
            sound: Any = out.add_stream("aac", rate=48_000, layout="mono")
            for number in range(30):
                pixels = np.full((64, 64, 3), number * 8, np.uint8)
                out.mux(film.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
                block = tone(HZ, 0.1, 48_000)[None]  # 44 whole turns: no seam
                frame = av.AudioFrame.from_ndarray(block, "s16", "mono")
                frame.sample_rate, frame.pts = 48_000, number * 4_800
                out.mux(sound.encode(frame))
            out.mux(film.encode(None))
            out.mux(sound.encode(None))
        into = tmp_path / "out.wav"
        assert abs(convert(path, into, SPEECH, longest_s=10).duration_s - SECONDS) < 0.06
        assert_is_tone(samples_of(into)[0], 16_000)


def test_what_stands_in_tags_is_stepped_over(encode: Any, tone: Any, tmp_path: Path) -> None:
    size = 100_000
    tag = b"ID3\4\0\0" + bytes([0, size >> 14, size >> 7 & 127, size & 127]) + b"\xff" * size
    for name, container, codec in (("mp3", "mp3", "libmp3lame"), ("flac", "flac", "flac")):
        plain = encode(f"plain.{name}", container, codec, tone(HZ, SECONDS, 48_000))
        tagged = tmp_path / f"tagged.{name}"
        tagged.write_bytes(tag + plain.read_bytes())
        sound = convert(tagged, tmp_path / "out.wav", SPEECH, longest_s=10)
        assert (sound.container, sound.duration_s) == (name, SECONDS)


def test_a_stream_that_changes_its_rate_and_channels_goes_on(
    encode: Any, tone: Any, tmp_path: Path
) -> None:
    parts = [
        encode("a.mp3", "mp3", "libmp3lame", tone(HZ, SECONDS, 44_100), rate=44_100),
        encode("b.mp3", "mp3", "libmp3lame", tone(HZ, SECONDS, 48_000), layout="stereo"),
    ]
    both = tmp_path / "both.mp3"
    both.write_bytes(b"".join(part.read_bytes() for part in parts))
    into = tmp_path / "out.wav"
    assert abs(convert(both, into, SPEECH, longest_s=10).duration_s - 2 * SECONDS) < 0.1
    samples = samples_of(into)[0]
    assert_is_tone(samples[: 3 * 16_000], 16_000)
    assert_is_tone(samples[-3 * 16_000 :], 16_000)


def test_progress_tells_seconds_and_may_end_the_conversion(
    encode: Any, tone: Any, tmp_path: Path
) -> None:
    source = encode("a.flac", "flac", "flac", tone(HZ, SECONDS, 48_000))
    into = tmp_path / "out.wav"
    told: list[float] = []
    convert(source, into, SPEECH, longest_s=10, on_progress=told.append)
    assert told == sorted(told)
    assert told[0] == 0
    assert told[-1] == SECONDS

    def stop(_: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(source, into, SPEECH, longest_s=10, on_progress=stop)
    assert not into.exists()


@pytest.mark.parametrize(
    ("target", "field"),
    [
        (AudioTarget(format="mp3", sample_rate=96_000), "sample_rate"),
        (AudioTarget(format="mp3", sample_rate=44_000), "sample_rate"),
        (AudioTarget(sample_rate=7_999), "sample_rate"),
        (AudioTarget(format="flac", sample_rate=192_001), "sample_rate"),
        (AudioTarget(channels=0), "channels"),
        (AudioTarget(channels=3), "channels"),
        (AudioTarget(format="aac"), "target"),  # type: ignore[arg-type]
    ],
)
def test_a_target_that_is_not_written_is_refused(target: AudioTarget, field: str) -> None:
    with pytest.raises(Unprocessable) as refused:
        check_target(target)
    assert (refused.value.code, refused.value.field) == ("unsupported_target", field)
    assert field in refused.value.message


def test_more_than_a_wav_can_hold_is_refused_at_once(encode: Any, tmp_path: Path) -> None:
    source = encode("a.flac", "flac", "flac", np.zeros(8_000 * 7_200, np.int16), rate=8_000)
    target = AudioTarget(sample_rate=192_000, channels=2)
    with pytest.raises(Unprocessable, match="4 GiB") as refused:
        convert(source, tmp_path / "out.wav", target, longest_s=10_000)
    assert refused.value.code == "unsupported_target"
    assert not (tmp_path / "out.wav").exists()
