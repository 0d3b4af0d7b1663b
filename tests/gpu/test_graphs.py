"""The graphs that become engines, against what TensorRT's parser takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from build_engines import main
from engines.graphs import for_tensorrt
from engines.operators import refusals, refusals_of
from engines.repository import engine_models
from engines.versions import versions
from gateway.settings import CHECKOUT
from tests.gpu.conftest import small_graph

REPOSITORY = CHECKOUT / "model_repository"
ENGINES = [model.name for model in engine_models(REPOSITORY, [])]


def graph(name: str) -> onnx.ModelProto:
    return onnx.load(str(REPOSITORY / name / "1" / "model.onnx"))


def answer(model: onnx.ModelProto, image: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return np.asarray(session.run(None, {"image": image})[0])


@pytest.mark.parametrize("name", ENGINES)
def test_tensorrt_takes_every_operator_of_an_engine(name: str) -> None:
    assert refusals_of(REPOSITORY / name / "1" / "model.onnx") == []


def test_the_graph_as_served_on_a_cpu_has_bytes_inside_and_would_be_refused() -> None:
    found = refusals(graph("realesr-animevideov3-x2"))
    assert any("writes UINT8 to 'bytes', which is no output" in line for line in found)
    found = refusals(graph("nanodet-g-416"))
    assert any("reads UINT8 from 'image'" in line for line in found)


@pytest.mark.parametrize("name", ["realesr-animevideov3-x2", "realesr-animevideov3-x3"])
def test_the_turned_upscaler_gives_the_same_bytes(name: str) -> None:
    image = np.random.default_rng(1).integers(0, 256, (2, 12, 16, 3), np.uint8)
    served = graph(name)
    assert (answer(served, image) == answer(for_tensorrt(served), image)).all()


def test_the_turned_detector_gives_the_same_rows() -> None:
    image = np.random.default_rng(1).integers(0, 256, (1, 64, 96, 3), np.uint8)
    served = graph("nanodet-g-416")
    assert (answer(served, image) == answer(for_tensorrt(served), image)).all()


def test_turning_leaves_the_graph_that_it_was_given_as_it_is() -> None:
    served = small_graph()
    before = served.SerializeToString()
    turned = for_tensorrt(served)
    assert served.SerializeToString() == before
    assert [node.op_type for node in turned.graph.node][-2:] == ["Transpose", "Cast"]
    assert for_tensorrt(turned) == turned


def one(op: str, *inputs: str, **attributes: Any) -> onnx.ModelProto:
    """A graph of one node, whose inputs are floats except for constants `k` and `many`."""
    constants = [
        helper.make_tensor("k", TensorProto.INT64, [1], [5]),
        helper.make_tensor("many", TensorProto.INT64, [1], [4000]),
    ]
    outputs = ["out", "places"] if op == "TopK" else ["out"]
    asked = [name for name in inputs if name not in ("k", "many", "")]
    made = helper.make_graph(
        [helper.make_node(op, inputs, outputs, **attributes)],
        "one",
        [
            helper.make_tensor_value_info(
                name, TensorProto.INT64 if name == "n" else TensorProto.FLOAT, None
            )
            for name in asked
        ],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
        constants,
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)])


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (one("NonZero", "x"), "is not among the operators of triton/operators.toml"),
        (one("Sigmoid", "n"), "reads INT64 from 'n' and takes FP32, FP16, BF16"),
        (one("TopK", "x", "n"), "must have a constant at input 1"),
        (one("TopK", "x", "many"), r"has \[4000\] at input 1, not below 3840"),
        (one("TopK", "x", "k", sorted=0), r"has sorted = 0, which is none of \[1\]"),
        (one("Resize", "x", "", "s", mode="spline"), "has mode = spline"),
        (one("MaxPool", "x", kernel_shape=[2, 2], dilations=[2, 2]), "has dilations"),
    ],
)
def test_what_the_parser_refuses_is_named(model: onnx.ModelProto, reason: str) -> None:
    assert len(refusals(model)) == 1
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(refusals(model)[0])


def test_an_opset_beyond_the_parsers_is_refused() -> None:
    model = one("Sigmoid", "x")
    model.opset_import[0].version = 24
    assert refusals(model) == ["opset 24 is none of 9 to 20"]
    assert versions()["model"]["onnx_opset_newest"] == 20


def test_the_command_holds_all_engines_against_the_list(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["operators", "--repository", str(repository)]) == 0
    onnx.save(one("NonZero", "image"), str(repository / "small" / "1" / "model.onnx"))
    assert main(["operators", "--repository", str(repository)]) == 1
    assert "small version 1: NonZero 'out' is not among" in capsys.readouterr().err
