"""The contracts of `transcribe` and `detect_speech`, as docs/speech.md writes them down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from functions._kit.capabilities.rules import broken, expect, number
from functions._kit.ports import Inference, ServedModel, TensorSpec

SAMPLE_RATE = 16_000
WINDOW, CONTEXT = 512, 64
"""Samples that a probability of speech stands for, and those before that the model looks at."""
STATE = (1, 1, 128)
"""Of each of the two tensors, `h` and `c`, by which the model remembers what came before."""


def check_transcriber(model: ServedModel) -> None:
    """Hold the contract of `transcribe` against Triton's configuration of the model."""
    expect(model, "inputs", model.inputs, {"audio": TensorSpec("INT16", (-1,))})
    outputs = {
        "text": TensorSpec("STRING", (1,)),
        "tokens": TensorSpec("INT32", (-1,)),
        "log_probability": TensorSpec("FP32", (1,)),
    }
    expect(model, "outputs", model.outputs, outputs)
    if number(model, "sample_rate") != SAMPLE_RATE:
        raise broken(model, f"the parameter `sample_rate` must be {SAMPLE_RATE}")
    if not model.parameters.get("language"):
        raise broken(model, "the parameter `language` must be the ISO 639-1 code of its language")


async def probe_transcriber(inference: Inference, model: ServedModel) -> None:
    """A second of silence must be answered with finite numbers."""
    answer = await inference.infer(model, {"audio": np.zeros((1, SAMPLE_RATE), np.int16)})
    if not np.isfinite(answer["log_probability"]).all():
        raise broken(model, "`log_probability` is not a number in the answer to a silent second")


def check_speech_detector(model: ServedModel) -> None:
    """Hold the contract of `detect_speech` against Triton's configuration of the model."""
    state = TensorSpec("FP32", STATE)
    inputs = {"input": TensorSpec("FP32", (-1, CONTEXT + WINDOW)), "h": state, "c": state}
    expect(model, "inputs", model.inputs, inputs)
    outputs = {"speech_probs": TensorSpec("FP32", (-1,)), "hn": state, "cn": state}
    expect(model, "outputs", model.outputs, outputs)


async def probe_speech_detector(inference: Inference, model: ServedModel) -> None:
    """Two windows of silence must be answered with two probabilities."""
    state = np.zeros(STATE, np.float32)
    windows = np.zeros((2, CONTEXT + WINDOW), np.float32)
    answer = await inference.infer(model, {"input": windows, "h": state, "c": state})
    probabilities = answer["speech_probs"]
    if probabilities.shape != (2,) or not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise broken(model, "it must answer two windows with two probabilities of 0 to 1")


def compare_words(
    first: ServedModel,
    answer: Mapping[str, NDArray[Any]],
    second: ServedModel,
    other: Mapping[str, NDArray[Any]],
) -> float:
    """Words to change, to add and to leave out, as a share of the longer text; 0 to 1."""
    del first, second
    ours, theirs = (
        one["text"].flat[0].decode(errors="replace").lower().split() for one in (answer, other)
    )
    return _edits(ours, theirs) / max(len(ours), len(theirs), 1)


def compare_speech(
    first: ServedModel,
    answer: Mapping[str, NDArray[Any]],
    second: ServedModel,
    other: Mapping[str, NDArray[Any]],
) -> float:
    """Mean difference of the windows' probabilities of speech; 0 to 1."""
    ours, theirs = answer["speech_probs"], other["speech_probs"]
    if ours.shape != theirs.shape:
        raise broken(
            second,
            f"it answers {list(theirs.shape)} where {first.name} answers {list(ours.shape)}",
        )
    return float(np.abs(ours - theirs).mean())


def _edits(first: Sequence[str], second: Sequence[str]) -> int:
    """Levenshtein's distance, row by row."""
    row = list(range(len(second) + 1))
    for height, word in enumerate(first, 1):
        before, row[0] = row[0], height
        for place, other in enumerate(second, 1):
            cheapest = min(before + (word != other), row[place] + 1, row[place - 1] + 1)
            before, row[place] = row[place], cheapest
    return row[-1]
