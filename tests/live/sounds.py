"""Recordings for live tests: a real voice, repeated and encoded as a phone or a browser would."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

VOICE = Path(__file__).parents[1] / "data" / "sounds" / "two_cities.opus"
VOICE_S = 12.4
RATE = 16_000
FIRST_WORDS = "it was the best of times it was the worst of times"


@cache
def samples() -> NDArray[np.int16]:
    """The voice's samples, 16 kHz, mono."""
    blocks = []
    with av.open(str(VOICE)) as container:
        resampler = av.AudioResampler("s16", "mono", RATE)
        for frame in [*container.decode(audio=0), None]:
            blocks += [part.to_ndarray()[0] for part in resampler.resample(frame)]
    return np.concatenate(blocks)


def voice(
    seconds: float, *, start_s: float = 0.0, container: str = "ogg", codec: str = "libopus"
) -> bytes:
    """So many seconds of the voice, which begins anew when it is over, from `start_s` on."""
    first, count = round(start_s * RATE), round(seconds * RATE)
    spoken = np.take(samples(), np.arange(first, first + count), mode="wrap")
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=RATE, layout="mono")
        assert isinstance(stream, av.AudioStream)
        frame = av.AudioFrame.from_ndarray(spoken[None], format="s16", layout="mono")
        frame.sample_rate = RATE
        resampler = av.AudioResampler(stream.format, "mono", RATE, stream.frame_size or RATE)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            output.mux(stream.encode(part))
        output.mux(stream.encode(None))
    return file.getvalue()


def plain(text: str) -> str:
    """Words alone, in lower case."""
    return " ".join("".join(c if c.isalnum() else " " for c in text.lower()).split())
