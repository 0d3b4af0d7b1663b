"""How far two models' answers lie apart, and what an upscaler must be."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from functions._kit.capabilities import check_contract, check_fits, check_served, differ_in
from functions._kit.capabilities.detect import compare_detections
from functions._kit.capabilities.speech import compare_speech, compare_words
from functions._kit.capabilities.upscale import compare_pictures
from functions._kit.errors import Unprocessable
from functions._kit.fakes import FakeInference
from functions._kit.fakes.inference import DEFAULT_MODELS
from functions._kit.ports import ServedModel, TensorSpec

PICTURE = TensorSpec("UINT8", (-1, -1, 3))
PARAMETERS = {
    "capability": "upscale",
    "scale": "2",
    "halo": "4",
    "max_tile_pixels": "9",
    "bits": "8",
}
UPSCALER = ServedModel("up", "1", PARAMETERS, {"image": PICTURE}, {"upscaled": PICTURE})
ANY = ServedModel("any", "1", {})


def rows(*found: tuple[float, ...]) -> dict[str, NDArray[np.float32]]:
    """A detector's answer: x, y, width, height, score, class."""
    answer = np.zeros((1, 100, 6), np.float32)
    for number, row in enumerate(found):
        answer[0, number] = row
    return {"detections": answer}


CUP, DOG = (10, 10, 40, 40, 0.9, 0), (100, 100, 50, 50, 0.6, 1)


@pytest.mark.parametrize(
    ("first", "second", "apart"),
    [
        ([CUP, DOG], [CUP, DOG], 0.0),
        ([CUP, DOG], [DOG, CUP], 0.0),  # their order is by score, which may differ
        ([], [], 0.0),
        ([CUP], [], 1.0),
        ([], [CUP], 1.0),
        ([CUP, DOG], [CUP], 1 / 3),
        ([CUP], [(12, 12, 40, 40, 0.5, 0)], 0.0),  # an overlap of 0.82
        ([CUP], [(40, 40, 40, 40, 0.9, 0)], 1.0),
        ([CUP], [(10, 10, 40, 40, 0.9, 1)], 1.0),  # another class
        ([(10, 10, 40, 40, 0.3, 0)], [], 0.0),  # nobody is sure of it
        ([(10, 10, 40, 40, 0.36, 0)], [(10, 10, 40, 40, 0.33, 0)], 0.0),
    ],
)
def test_detections_differ_by_the_objects_that_only_one_sees(
    first: list[Any], second: list[Any], apart: float
) -> None:
    assert compare_detections(ANY, rows(*first), ANY, rows(*second)) == pytest.approx(apart)


def test_pictures_differ_by_levels_of_255_whatever_their_depth() -> None:
    dark: dict[str, NDArray[Any]] = {"upscaled": np.zeros((1, 4, 4, 3), np.uint8)}
    light: dict[str, NDArray[Any]] = {"upscaled": np.full((1, 4, 4, 3), 3, np.uint8)}
    assert compare_pictures(UPSCALER, dark, UPSCALER, light) == pytest.approx(3)
    deep = replace(UPSCALER, parameters={**PARAMETERS, "bits": "16"})
    dark, light = ({"upscaled": one["upscaled"] * np.float32(257)} for one in (dark, light))
    assert compare_pictures(deep, dark, deep, light) == pytest.approx(3)
    with pytest.raises(Unprocessable, match=r"\[1, 2, 4, 3\]"):
        compare_pictures(deep, dark, deep, {"upscaled": light["upscaled"][:, :2]})


@pytest.mark.parametrize(
    ("first", "second", "apart"),
    [
        ("It was the best", "it was the BEST", 0.0),
        ("", "", 0.0),
        ("it was the best", "it was a best", 0.25),
        ("it was", "it was the best", 0.5),
        ("a b c", "", 1.0),
    ],
)
def test_texts_differ_by_words(first: str, second: str, apart: float) -> None:
    ours, theirs = ({"text": np.array([[text.encode()]], object)} for text in (first, second))
    assert compare_words(ANY, ours, ANY, theirs) == apart


def test_probabilities_differ_by_their_mean() -> None:
    ours, theirs = ({"speech_probs": np.array(v, np.float32)} for v in ([0, 1], [0.5, 1]))
    assert compare_speech(ANY, ours, ANY, theirs) == 0.25
    with pytest.raises(Unprocessable):
        compare_speech(ANY, ours, ANY, {"speech_probs": np.zeros(3, np.float32)})


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"bits": "10"}, "`bits` is '10'"),
        ({"scale": "0"}, "`scale` is 0"),
        ({"scale": "1.5"}, "`scale` is 1.5"),
        ({"halo": "-1"}, "`halo` is -1"),
        ({"max_tile_pixels": ""}, "`max_tile_pixels` is ''"),
    ],
)
def test_an_upscalers_parameters_are_checked(changed: dict[str, str], reason: str) -> None:
    with pytest.raises(Unprocessable, match=reason):
        check_contract(replace(UPSCALER, parameters={**PARAMETERS, **changed}))


def test_an_upscalers_tensors_are_checked() -> None:
    with pytest.raises(Unprocessable, match="its inputs are"):
        check_contract(replace(UPSCALER, inputs={"image": TensorSpec("FP32", (-1, -1, 3))}))
    with pytest.raises(Unprocessable, match="its outputs are"):
        check_contract(replace(UPSCALER, outputs={"image": PICTURE}))


async def test_an_upscaler_is_probed(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "realesr-animevideov3-x2"
    inference = FakeInference({name: {"capability": "upscale", **DEFAULT_MODELS[name]}})
    assert await check_served(inference, name) == "upscale"
    inference.answers[name, "1"] = lambda answer: {"upscaled": answer["upscaled"][:, ::2, ::2]}
    with pytest.raises(Unprocessable, match="is due"):
        await check_served(inference, name)


@pytest.mark.parametrize(
    ("capability", "fits"),
    [("upscale.x2", True), ("upscale.up", True), ("upscale.x3", False), ("detect", False)],
)
def test_a_model_fits_its_capability_and_scale(capability: str, *, fits: bool) -> None:
    if fits:
        check_fits(capability, UPSCALER)
        return
    with pytest.raises(Unprocessable):
        check_fits(capability, UPSCALER)


def test_what_differs_between_two_models_is_named() -> None:
    other = replace(UPSCALER, parameters={**PARAMETERS, "scale": "4"}, outputs={})
    assert differ_in(UPSCALER, other, ("scale", "bits")) == ["outputs", "scale"]
    assert differ_in(UPSCALER, UPSCALER, ("scale", "bits")) == []
