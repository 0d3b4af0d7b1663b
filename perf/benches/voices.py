"""Voices for the benchmarks: clips of a real recording, no two alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
from av.audio.resampler import AudioResampler
from numpy.typing import NDArray

from gateway.settings import CHECKOUT

WEIGHTS = CHECKOUT / ".cache" / "weights"
RECORDING = "two_cities.wav"
"""44 s of the wheel that the speech model comes from; `just build-models` unpacks it."""
RATE = 48_000
STEP = 12_345
"""Samples between the beginnings of two clips: not a multiple of OPUS's frames."""
BIT_RATE = 24_000
"""Of a voice message."""


def voices(folder: Path, seconds: float, count: int) -> list[Path]:
    """`count` OPUS files of `seconds`, each from another place of the recording."""
    samples = read_recording()
    length = round(seconds * RATE)
    files = []
    for number in range(count):
        clip = np.take(samples, np.arange(length) + number * STEP, mode="wrap")
        files.append(folder / f"voice-{seconds:g}-{number:02}.opus")
        write_opus(files[-1], clip)
    return files


def read_recording() -> NDArray[np.int16]:
    """The recording, mono at `RATE`. Raises `FileNotFoundError` with the way out."""
    found = sorted(WEIGHTS.rglob(RECORDING))
    if not found:
        raise FileNotFoundError(f"{RECORDING} is not below {WEIGHTS}: run `just build-models`")
    resampler = AudioResampler("s16", "mono", RATE)
    with av.open(str(found[0])) as container:
        frames = [f for d in container.decode(audio=0) for f in resampler.resample(d)]
    frames += resampler.resample(None)
    return np.concatenate([frame.to_ndarray()[0] for frame in frames if frame is not None])


def write_opus(path: Path, samples: NDArray[np.int16]) -> None:
    """A mono OPUS file at `BIT_RATE`."""
    with av.open(str(path), "w", format="ogg") as out:
        stream: Any = out.add_stream(
            "libopus", rate=RATE, layout="mono", options={"application": "voip"}
        )
        stream.bit_rate = BIT_RATE
        for start in range(0, len(samples), RATE):
            block = np.ascontiguousarray(samples[None, start : start + RATE])
            frame = av.AudioFrame.from_ndarray(block, "s16", "mono")
            frame.sample_rate, frame.pts = RATE, start
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
