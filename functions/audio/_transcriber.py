"""Turns speech into words: finds it, cuts it at silences, and has the pieces recognised."""

from __future__ import annotations

import asyncio
import time
import wave
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from functions._kit.capabilities import serve
from functions._kit.capabilities.speech import CONTEXT, SAMPLE_RATE, STATE, WINDOW
from functions._kit.ports import Figures, Inference, KeyValue, ServedModel
from functions.audio._cutter import Cutter, Span
from functions.audio.contracts import Segment, Transcript

BLOCK = 160 * WINDOW
"""Samples that are looked through for speech at once: 5 s. Each is a request of 370 kB, and fifty
users with one of 31 s take 60 MB more of this process than with one of 5."""
PIECES_AT_ONCE = 8
"""Of one recording: enough for Triton to batch, few enough to leave room for others."""

Samples = NDArray[np.int16]


@dataclass(frozen=True, slots=True)
class Piece:
    """A span of the recording with its samples."""

    span: Span
    samples: Samples


async def transcribe(
    wav: Path,
    inference: Inference,
    values: KeyValue,
    figures: Figures,
    *,
    priority: int,
    on_progress: Callable[[float], None] = lambda _: None,
    unit: str | None = None,
) -> Transcript:
    """What is said in `wav` (16 kHz, mono, 16 bits), of any length, in bounded memory.

    `priority` is Triton's: 1 before 2 before 3. `on_progress` is told the share that is done.
    `unit` is the job's id, by which a canary chooses; without one it chooses for this call alone.
    Raises as `Inference` does.
    """
    began = time.monotonic()

    job = unit or str(wav)

    async def work(transcriber: ServedModel, listener: ServedModel) -> Transcript:
        return await _transcribe(wav, transcriber, listener, inference, priority, on_progress)

    async def with_listener(listener: ServedModel) -> Transcript:
        return await serve(
            "transcribe",
            inference,
            values,
            lambda model: work(model, listener),
            unit=job,
        )

    with figures.transcribing():
        transcript = await serve("detect_speech", inference, values, with_listener, unit=job)
    figures.add_transcription(transcript.duration, time.monotonic() - began)
    return transcript


async def _transcribe(
    wav: Path,
    transcriber: ServedModel,
    listener: ServedModel,
    inference: Inference,
    priority: int,
    on_progress: Callable[[float], None],
) -> Transcript:
    duration = await asyncio.to_thread(_duration, wav)
    segments: list[Segment] = []
    running: deque[asyncio.Task[Segment]] = deque()

    async def oldest() -> None:
        segments.append(await running.popleft())
        on_progress(min(1.0, segments[-1].end / duration))

    try:
        async for piece in _pieces(wav, listener, inference, priority):
            if len(running) == PIECES_AT_ONCE:
                await oldest()
            running.append(
                asyncio.create_task(_recognised(piece, transcriber, inference, priority))
            )
        while running:
            await oldest()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    return Transcript(
        text=" ".join(segment.text for segment in segments if segment.text),
        language=transcriber.parameters["language"],
        duration=duration,
        segments=tuple(segments),
        model=transcriber.name,
        model_version=transcriber.version,
    )


async def _pieces(
    wav: Path, listener: ServedModel, inference: Inference, priority: int
) -> AsyncIterator[Piece]:
    """The pieces with speech in them, in order; holds the samples of one block and one piece."""
    cutter = Cutter()
    kept = np.zeros(0, np.int16)
    first = 0  # where in the recording `kept` begins
    async for block, probabilities in _listened(wav, listener, inference, priority):
        kept = np.concatenate((kept, block))
        for span in cutter.feed(probabilities):
            yield _piece(span, kept, first)
        passed = cutter.start * WINDOW - first
        kept, first = kept[passed:], first + passed
    for span in cutter.finish():
        yield _piece(span, kept, first)


def _piece(span: Span, kept: Samples, first: int) -> Piece:
    return Piece(span, kept[span.start * WINDOW - first : span.end * WINDOW - first])


async def _listened(
    wav: Path, listener: ServedModel, inference: Inference, priority: int
) -> AsyncIterator[tuple[Samples, list[float]]]:
    """The recording in blocks, each with the probability of speech of each of its windows.

    The model remembers from block to block, as if it had heard all at once.
    """
    state = {"h": np.zeros(STATE, np.float32), "c": np.zeros(STATE, np.float32)}
    before = np.zeros(CONTEXT, np.int16)
    with await asyncio.to_thread(wave.open, str(wav), "rb") as file:
        while data := await asyncio.to_thread(file.readframes, BLOCK):
            block = np.frombuffer(data, np.int16)
            windows = _windows(before, block)
            answer = await inference.infer(listener, {"input": windows, **state}, priority=priority)
            state = {"h": answer["hn"], "c": answer["cn"]}
            before = block[-CONTEXT:]
            yield block, answer["speech_probs"].tolist()


def _windows(before: Samples, block: Samples) -> NDArray[np.float32]:
    """Rows of `CONTEXT` + `WINDOW` samples of -1 to 1; the last one ends in silence."""
    rows = -(-len(block) // WINDOW)
    samples = np.zeros(CONTEXT + rows * WINDOW, np.float32)
    samples[:CONTEXT] = before
    samples[CONTEXT : CONTEXT + len(block)] = block
    samples /= 32768
    view = np.lib.stride_tricks.sliding_window_view(samples, CONTEXT + WINDOW)[::WINDOW]
    return np.ascontiguousarray(view)


async def _recognised(
    piece: Piece, transcriber: ServedModel, inference: Inference, priority: int
) -> Segment:
    answer = await inference.infer(transcriber, {"audio": piece.samples[None]}, priority=priority)
    start = piece.span.start * WINDOW / SAMPLE_RATE
    return Segment(
        start=round(start, 3),
        end=round(start + len(piece.samples) / SAMPLE_RATE, 3),
        text=answer["text"].flat[0].decode(errors="replace").strip(),
        tokens=tuple(answer["tokens"].ravel().tolist()),
        avg_logprob=round(float(answer["log_probability"].flat[0]), 4),
        no_speech_prob=round(1 - piece.span.speech, 4),
    )


def _duration(wav: Path) -> float:
    with wave.open(str(wav), "rb") as file:
        return round(file.getnframes() / SAMPLE_RATE, 3)
