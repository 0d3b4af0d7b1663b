"""Sounds that are made for the tests, by PyAV's encoders."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

Samples = NDArray[np.int16]
Encode = Callable[..., Path]


def sine(hz: float, seconds: float, rate: int, amplitude: float = 0.5) -> Samples:
    """A tone; amplitude 1 is full scale."""
    turns = np.arange(round(seconds * rate)) * hz / rate
    return np.asarray(np.sin(2 * np.pi * turns) * amplitude * 32767, np.int16)


def write(
    folder: Path,
    name: str,
    container: str,
    codec: str,
    samples: Samples,
    *,
    rate: int = 48_000,
    layout: str = "mono",
    bit_rate: int = 0,
    muxer: dict[str, str] | None = None,
    **options: str,
) -> Path:
    """Mono samples, or rows of them, one a channel, as a file of any container and codec."""
    path = folder / name
    with av.open(str(path), "w", format=container, container_options=muxer) as out:
        stream: Any = out.add_stream(codec, rate=rate, layout=layout, options=options or None)
        if bit_rate:
            stream.bit_rate = bit_rate
        channels = stream.codec_context.channels
        rows = np.broadcast_to(np.atleast_2d(samples), (channels, np.shape(samples)[-1]))
        for start in range(0, rows.shape[1], rate):
            packed = np.ascontiguousarray(rows[:, start : start + rate].T).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(packed, "s16", layout)
            frame.sample_rate, frame.pts = rate, start
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


@pytest.fixture(scope="session")
def tone() -> Callable[..., Samples]:
    """Makes samples of a tone: hertz, seconds, rate."""
    return sine


@pytest.fixture(scope="session")
def encode_in() -> Encode:
    """Writes sounds into a folder."""
    return write


@pytest.fixture
def encode(tmp_path: Path) -> Encode:
    """Writes sounds into the test's own folder."""
    return partial(write, tmp_path)


@pytest.fixture
def wav_of(tmp_path: Path) -> Callable[..., Path]:
    """Writes a WAV with any header, true or not."""

    def write_header(
        name: str,
        *,
        channels: int = 1,
        rate: int = 16_000,
        seconds: float = 1,
        told_bytes: int | None = None,
    ) -> Path:
        data = b"\1\0" * channels * round(rate * seconds)
        told = len(data) if told_bytes is None else told_bytes
        head = b"RIFF" + (36 + told & 0xFFFF_FFFF).to_bytes(4, "little") + b"WAVEfmt \x10\0\0\0\1\0"
        head += channels.to_bytes(2, "little") + rate.to_bytes(4, "little")
        head += (rate * channels * 2).to_bytes(4, "little") + (channels * 2).to_bytes(2, "little")
        path = tmp_path / name
        path.write_bytes(head + b"\x10\0data" + told.to_bytes(4, "little") + data)
        return path

    return write_header
