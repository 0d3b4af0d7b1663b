"""What is said of a model that does not keep the contract of its capability."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from functions._kit.capabilities import (
    Canvas,
    canvas_of,
    check_contract,
    check_detector,
    check_rows,
    label_names,
)
from functions._kit.errors import Unprocessable
from functions._kit.fakes.inference import FakeInference
from functions._kit.ports import ServedModel, TensorSpec
from gateway.adapters.inference import TritonInference
from gateway.cli.main import main

GOOD = ServedModel(
    "mine",
    "1",
    {"capability": "detect", "labels": "person,traffic light", "min_score": "0.2"},
    {"image": TensorSpec("UINT8", (32, 64, 3))},
    {"detections": TensorSpec("FP32", (100, 6))},
)
ROW = (10, 10, 20, 20, 0.5, 1)


def test_a_model_that_keeps_the_contract_passes() -> None:
    assert check_contract(GOOD) == "detect"
    assert label_names(GOOD) == ["person", "traffic light"]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"inputs": {}}, "one input, `image`, and has none"),
        ({"inputs": {"images": TensorSpec("FP32", (3, 32, 64))}}, "has `images`"),
        ({"inputs": {"image": TensorSpec("FP32", (32, 64, 3))}}, r"FP32 \[32, 64, 3\] and must be"),
        ({"inputs": {"image": TensorSpec("UINT8", (-1, 64, 3))}}, "height and width both fixed"),
        ({"inputs": {"image": TensorSpec("UINT8", (-1, -1, 3))}}, "`longest_side` is ''"),
        ({"inputs": {"image": TensorSpec("UINT8", (1, 32, 64, 3))}}, "max_batch_size"),
        ({"inputs": {"image": TensorSpec("UINT8", (3, 32, 64))}}, "UINT8"),
        ({"outputs": {"output0": TensorSpec("FP32", (84, 8400))}}, "has `output0`"),
        ({"outputs": {"detections": TensorSpec("FP32", (300, 6))}}, r"FP32 \[300, 6\] and must be"),
        ({"outputs": {"detections": TensorSpec("FP16", (100, 6))}}, r"FP16 \[100, 6\] and must be"),
    ],
)
def test_tensors_of_another_form_are_named_with_what_they_must_be(
    changed: dict[str, Any], reason: str
) -> None:
    with pytest.raises(Unprocessable, match=reason) as caught:
        check_detector(replace(GOOD, **changed))
    assert caught.value.code == "model_contract"


def flexible(longest_side: str, multiple_of: str) -> ServedModel:
    """A model for pictures of many sizes."""
    sides = {"longest_side": longest_side, "multiple_of": multiple_of}
    picture = {"image": TensorSpec("UINT8", (-1, -1, 3))}
    return replace(GOOD, inputs=picture, parameters=GOOD.parameters | sides)


def test_a_model_says_which_pictures_it_takes() -> None:
    assert canvas_of(GOOD) == Canvas(width=64, height=32)
    assert canvas_of(flexible("416", "32")) == Canvas(416, 416, multiple_of=32)


@pytest.mark.parametrize(
    ("longest_side", "multiple_of"),
    [("416", "0"), ("416", "-32"), ("400", "32"), ("0", "32"), ("nan", "32"), ("416", "nan"),
     ("inf", "32"), ("416", "0.5"), ("-416", "32")],
)  # fmt: skip
def test_sides_that_do_not_fit_together_are_refused(longest_side: str, multiple_of: str) -> None:
    with pytest.raises(Unprocessable, match="must be a multiple of `multiple_of`"):
        check_detector(flexible(longest_side, multiple_of))


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"labels": ""}, "labels.txt"),
        ({"labels": "a,,b"}, "labels.txt"),
        ({"labels": "a, b"}, "without spaces"),
        ({"labels": "a,b,a"}, "names a more than once"),
        ({"min_score": ""}, "`min_score` is ''"),
        ({"min_score": "20"}, "from 0 to 1"),
        ({"min_score": "nan"}, "from 0 to 1"),
        ({"capability": ""}, "is missing and must be one of upscale, detect"),
        ({"capability": "fly"}, "is 'fly'"),
    ],
)
def test_parameters_are_checked(parameters: dict[str, str], reason: str) -> None:
    with pytest.raises(Unprocessable, match=reason):
        check_contract(replace(GOOD, parameters=GOOD.parameters | parameters))


def answer(*rows: tuple[float, ...]) -> Any:
    detections = np.zeros((1, 100, 6), np.float32)
    for index, row in enumerate(rows):
        detections[0, index] = row
    return detections


def test_rows_that_keep_the_contract_pass() -> None:
    check_rows(GOOD, answer())
    check_rows(GOOD, answer(ROW, (44, 12, 20, 20, 0.5, 0), (0, 0, 64, 32, 0.2, 0)))


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([(10, 10, 20, 20, float("nan"), 1)], "not a number"),
        ([ROW, (10, 10, 20, 20, 0.6, 1)], "do not fall"),
        ([(10, 10, 20, 20, 50, 1)], "above 1"),
        ([ROW, (10, 10, 20, 20, 0, 1)], "not all zeros"),
        ([(10, 10, 20, 20, 0.5, 2)], "no label"),
        ([(10, 10, 20, 20, 0.5, 0.5)], "no label"),
        ([(50, 10, 20, 20, 0.5, 1)], "outside"),
        ([(10, -5, 20, 20, 0.5, 1)], "outside"),
    ],
)
def test_rows_that_break_the_contract_are_refused(
    rows: list[tuple[float, ...]], reason: str
) -> None:
    with pytest.raises(Unprocessable, match=reason):
        check_rows(GOOD, answer(*rows))


@pytest.mark.parametrize("suffix", ["", "-16bit"])
async def test_the_fake_says_the_same_tensors_as_triton(triton_url: str, suffix: str) -> None:
    name = f"realesr-animevideov3-x2{suffix}"
    fake = await FakeInference().model(name)
    async with TritonInference(triton_url) as inference:
        real = await inference.model(name)
    assert (real.inputs, real.outputs) == (fake.inputs, fake.outputs)


def test_the_command_says_how_to_start_a_triton(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NEREID_TRITON_URL", raising=False)
    monkeypatch.setenv("NEREID_DATA", str(tmp_path))
    done = CliRunner().invoke(main, ["models", "check", "nanodet-g-416"])
    assert done.exit_code == 1
    assert "nereid up" in done.output
