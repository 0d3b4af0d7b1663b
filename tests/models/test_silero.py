"""The detector of speech: served as published, and on a real voice."""

from __future__ import annotations

import wave
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from functions._kit.capabilities import check_served
from functions._kit.errors import JobFailed
from gateway.adapters.inference import TritonInference

ROOT = Path(__file__).parents[2]
NAME = "silero-vad"
MODEL = ROOT / "model_repository" / NAME / "1" / "model.onnx"
WINDOW, CONTEXT = 512, 64
STATE = np.zeros((1, 1, 128), np.float32)
TOLERANCE = 1e-5  # relative and absolute: two engines add in different orders

Windows = NDArray[np.float32]


def recording() -> Windows:
    """Ten seconds of Beckett's words, as the windows that the model takes."""
    spec = util.spec_from_file_location("script_builder", ROOT / "scripts/build_models.py")
    assert spec is not None
    assert spec.loader is not None
    build = util.module_from_spec(spec)
    spec.loader.exec_module(build)
    with wave.open(str(build.fetch_speech_weights() / build.MOONSHINE / "beckett.wav")) as file:
        assert file.getframerate() == 16_000
        samples = np.frombuffer(file.readframes(file.getnframes()), np.int16)
    whole = samples[: samples.size // WINDOW * WINDOW]
    floats = np.concatenate([np.zeros(CONTEXT), whole]).astype(np.float32) / 2**15
    view = np.lib.stride_tricks.sliding_window_view(floats, CONTEXT + WINDOW)
    return np.ascontiguousarray(view[::WINDOW])


async def served(url: str, windows: Windows, **state: Any) -> dict[str, Any]:
    async with TritonInference(url) as inference:
        inputs = {"input": windows, "h": STATE, "c": STATE} | state
        return await inference.infer(await inference.model(NAME), inputs)


async def test_the_served_model_keeps_the_contract(triton_url: str) -> None:
    async with TritonInference(triton_url) as inference:
        assert await check_served(inference, NAME) == "detect_speech"


@pytest.mark.parametrize("count", [1, 2, 300])
async def test_served_probabilities_equal_onnx_runtime(triton_url: str, count: int) -> None:
    windows = recording()[:count]
    inputs = {"input": windows, "h": STATE, "c": STATE}
    expected = onnxruntime.InferenceSession(str(MODEL)).run(None, inputs)
    found = await served(triton_url, windows)
    for name, wanted in zip(("speech_probs", "hn", "cn"), expected, strict=True):
        np.testing.assert_allclose(found[name], wanted, TOLERANCE, TOLERANCE)


async def test_a_recording_in_parts_is_heard_as_in_one(triton_url: str) -> None:
    windows = recording()
    whole = (await served(triton_url, windows))["speech_probs"]
    first = await served(triton_url, windows[:100])
    second = await served(triton_url, windows[100:], h=first["hn"], c=first["cn"])
    parts = np.concatenate([first["speech_probs"], second["speech_probs"]])
    np.testing.assert_allclose(parts, whole, TOLERANCE, TOLERANCE)


async def test_a_voice_is_speech_and_neither_silence_nor_noise_is(triton_url: str) -> None:
    voice = (await served(triton_url, recording()))["speech_probs"]
    assert 0.3 <= (voice > 0.5).mean() <= 0.7  # he leaves long pauses
    noise = np.random.default_rng(0).normal(0, 0.01, (100, CONTEXT + WINDOW)).astype(np.float32)
    for quiet in (np.zeros_like(noise), noise):
        assert (await served(triton_url, quiet))["speech_probs"].max() < 0.5


async def test_windows_of_another_size_are_refused(triton_url: str) -> None:
    with pytest.raises(JobFailed) as caught:
        await served(triton_url, np.zeros((4, WINDOW), np.float32))
    assert caught.value.code == "inference_refused"
