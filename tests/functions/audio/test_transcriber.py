"""A recording turned into words: in order, in pieces, in bounded memory."""

from __future__ import annotations

import asyncio
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from functions._kit.capabilities.speech import CONTEXT, SAMPLE_RATE, WINDOW
from functions._kit.errors import RetryJob
from functions._kit.fakes import FakeAudioConverter, FakeFigures, FakeKeyValue
from functions._kit.ports import ServedModel
from functions.audio._cutter import LONGEST
from functions.audio._transcriber import BLOCK, PIECES_AT_ONCE, transcribe
from functions.audio.contracts import Transcript

LOUD = 10_000


class Ears:
    """Hears speech where it is loud, and the number that the first loud sample of a piece tells."""

    def __init__(self) -> None:
        self.windows: list[NDArray[np.float32]] = []
        self.pieces: list[NDArray[np.int16]] = []
        self.priorities: set[int] = set()
        self.running = self.most = 0
        self.gate: asyncio.Event | None = None
        self.fails_at: int | None = None

    async def model(self, name: str, version: str | None = None) -> ServedModel:
        return ServedModel(name, version or "7", {"language": "en"})

    def report(self, model: ServedModel, problem: str | None = None) -> None:
        raise AssertionError(f"{model.name}: {problem}")

    async def model_names(self) -> frozenset[str]:
        return frozenset()

    async def healthy(self) -> bool:
        return True

    async def infer(
        self, model: ServedModel, inputs: dict[str, NDArray[Any]], *, priority: int = 2
    ) -> dict[str, NDArray[Any]]:
        self.priorities.add(priority)
        if model.name == "silero-vad":
            return self.listen(inputs)
        self.pieces.append(inputs["audio"][0])
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            if self.gate is not None:
                await self.gate.wait()
            await asyncio.sleep(0)
            return self.recognise(inputs["audio"])
        finally:
            self.running -= 1

    def listen(self, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The state counts windows: whoever forgets it is found out."""
        windows = inputs["input"]
        assert inputs["h"][0, 0, 0] == sum(map(len, self.windows))
        self.windows.append(windows)
        loud = np.abs(windows[:, CONTEXT:]).max(axis=1) > LOUD / 2 / 32768
        state = np.full((1, 1, 128), sum(map(len, self.windows)), np.float32)
        return {"speech_probs": loud.astype(np.float32), "hn": state, "cn": state}

    def recognise(self, audio: NDArray[np.int16]) -> dict[str, NDArray[Any]]:
        assert audio.dtype == np.int16
        assert audio.shape[0] == 1
        number = int(np.abs(audio).max()) - LOUD
        if number == self.fails_at:
            raise RetryJob("inference_failed", "as told")
        return {
            "text": np.array([[f" w{number} ".encode()]], object),
            "tokens": np.array([[1, number]], np.int32),
            "log_probability": np.array([[-0.25]], np.float32),
        }


def recording(path: Path, *seconds: float) -> Path:
    """Silence, speech, silence, ...: so many seconds of each; the n-th speech is LOUD + n."""
    parts = [
        np.full(round(length * SAMPLE_RATE), LOUD + i // 2 if i % 2 else 0, np.int16)
        for i, length in enumerate(seconds)
    ]
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(np.concatenate(parts).tobytes())
    return path


async def hear(path: Path, ears: Ears, **options: Any) -> Transcript:
    return await transcribe(path, ears, FakeKeyValue(), figures(), **{"priority": 1, **options})


def figures() -> FakeFigures:
    return FakeFigures(FakeAudioConverter())


async def test_pieces_come_in_order_with_their_times(tmp_path: Path) -> None:
    ears = Ears()
    heard = await hear(recording(tmp_path / "a.wav", 2, 3, 2, 4, 2), ears)
    assert heard.text == "w0 w1"
    assert heard.duration == 13
    assert (heard.language, heard.model, heard.model_version) == ("en", "moonshine-tiny-en", "7")
    first, second = heard.segments
    assert 1.7 < first.start < 2
    assert 5 < first.end < 5.3
    assert 6.7 < second.start < 7
    assert 11 < second.end < 11.3
    assert second.tokens == (1, 1)
    assert second.avg_logprob == -0.25
    assert 0 < second.no_speech_prob < 0.2
    assert ears.priorities == {1}


async def test_a_silent_recording_has_no_words_and_asks_the_recogniser_nothing(
    tmp_path: Path,
) -> None:
    ears = Ears()
    heard = await hear(recording(tmp_path / "a.wav", 70), ears)
    assert (heard.text, heard.segments, heard.duration) == ("", (), 70)
    assert ears.pieces == []


async def test_an_empty_recording_has_no_words(tmp_path: Path) -> None:
    heard = await hear(recording(tmp_path / "a.wav", 0), Ears())
    assert (heard.text, heard.duration) == ("", 0)


async def test_windows_carry_the_samples_before_them_across_blocks(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    samples = np.random.default_rng(0).integers(-900, 900, 2 * BLOCK + 700, np.int16)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
        file.writeframes(samples.tobytes())
    ears = Ears()
    await hear(path, ears)
    windows = np.concatenate(ears.windows)
    padded = np.zeros(CONTEXT + len(windows) * WINDOW, np.float32)
    padded[CONTEXT : CONTEXT + len(samples)] = samples / np.float32(32768)
    block = BLOCK // WINDOW
    for at in (0, 1, block - 1, block, block + 1, 2 * block - 1, 2 * block, 2 * block + 1):
        expected = padded[at * WINDOW : at * WINDOW + CONTEXT + WINDOW]
        np.testing.assert_array_equal(windows[at], expected)
    assert len(windows) == -(-len(samples) // WINDOW)


async def test_no_piece_is_too_long_and_all_samples_of_speech_are_heard(tmp_path: Path) -> None:
    ears = Ears()
    await hear(recording(tmp_path / "a.wav", 1, 100, 1), ears)
    assert max(map(len, ears.pieces)) <= LONGEST * WINDOW
    assert sum(int((piece == LOUD).sum()) for piece in ears.pieces) == 100 * SAMPLE_RATE


async def test_only_so_many_pieces_wait_at_once(tmp_path: Path) -> None:
    ears = Ears()
    ears.gate = asyncio.Event()
    path = recording(tmp_path / "a.wav", *([1.5] * 4 * PIECES_AT_ONCE))
    hearing = asyncio.create_task(hear(path, ears))
    async with asyncio.timeout(60):
        while ears.running < PIECES_AT_ONCE:
            await asyncio.sleep(0)
    ears.gate.set()
    heard = await hearing
    assert heard.text.split() == [f"w{number}" for number in range(2 * PIECES_AT_ONCE)]
    assert ears.most == PIECES_AT_ONCE


async def test_progress_grows_to_the_end_of_the_last_word(tmp_path: Path) -> None:
    told: list[float] = []
    path = recording(tmp_path / "a.wav", *([1.5] * 20))
    await hear(path, Ears(), on_progress=told.append)
    assert told == sorted(told)
    assert len(told) == 10
    assert 0.9 < told[-1] <= 1


async def test_one_piece_that_fails_fails_all_and_leaves_nothing_running(tmp_path: Path) -> None:
    ears = Ears()
    ears.fails_at = 3
    before = asyncio.all_tasks()
    with pytest.raises(RetryJob, match="as told"):
        await hear(recording(tmp_path / "a.wav", *([1.5] * 30)), ears)
    assert ears.running == 0
    assert asyncio.all_tasks() == before


async def test_cancelling_stops_what_runs(tmp_path: Path) -> None:
    ears = Ears()
    ears.gate = asyncio.Event()
    before = asyncio.all_tasks()
    hearing = asyncio.create_task(hear(recording(tmp_path / "a.wav", 1, 2, 1), ears))
    async with asyncio.timeout(60):
        while not ears.running:
            await asyncio.sleep(0)
    hearing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await hearing
    assert ears.running == 0
    assert asyncio.all_tasks() == before


async def test_models_that_were_switched_in_are_asked(tmp_path: Path) -> None:
    values = FakeKeyValue()
    await values.switch("transcribe", "mine")
    path = recording(tmp_path / "a.wav", 1, 1, 1)
    assert (await transcribe(path, Ears(), values, figures(), priority=3)).model == "mine"


async def test_what_is_done_is_counted_and_what_fails_is_not(tmp_path: Path) -> None:
    path, counts, deaf = recording(tmp_path / "a.wav", 1, 2, 1), figures(), Ears()
    await transcribe(path, Ears(), FakeKeyValue(), counts, priority=1)
    deaf.fails_at = 0
    with pytest.raises(RetryJob):
        await transcribe(path, deaf, FakeKeyValue(), counts, priority=1)
    (own,) = counts.all()
    assert (own.transcriptions.active, own.transcriptions.completed) == (0, 1)
    assert own.transcriptions.audio_s == 4
    assert own.transcriptions.total_time_s > 0
