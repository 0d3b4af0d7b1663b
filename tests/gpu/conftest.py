"""A small repository with one upscaler, and the stand-ins for TensorRT and CUDA."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

import build_engines
from engines import versions
from engines.gpu import Cuda
from tests.gpu import fake_tensorrt
from tests.gpu.fake_cuda import H200, FakeCuda

CONFIG = """
name: "small"
platform: "tensorrt_plan"
default_model_filename: "model.plan"
max_batch_size: 2
input [ { name: "image" data_type: TYPE_UINT8 dims: [ -1, -1, 3 ] } ]
output [ { name: "upscaled" data_type: TYPE_UINT8 dims: [ -1, -1, 3 ] } ]
parameters { key: "max_tile_side" value { string_value: "64" } }
parameters { key: "precision" value { string_value: "fp16" } }
model_warmup { name: "tile" batch_size: 1 inputs { key: "image" value {
  data_type: TYPE_UINT8 dims: [ 16, 24, 3 ] random_data: true
} } }
"""

Gpus = Callable[..., FakeCuda]


def small_graph(bias: float = 0) -> onnx.ModelProto:
    """Bytes halved, two convolutions with a ReLU between, doubled, bytes."""
    node = helper.make_node
    pads: dict[str, Any] = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    nodes = [
        node("Cast", ["image"], ["numbers"], to=TensorProto.FLOAT),
        node("Div", ["numbers", "two"], ["halved"]),
        node("Transpose", ["halved"], ["planes"], perm=[0, 3, 1, 2]),
        node("Conv", ["planes", "weight", "bias"], ["first"], **pads),
        node("Relu", ["first"], ["between"]),
        node("Conv", ["between", "weight", "bias"], ["second"], **pads),
        node("Mul", ["second", "two"], ["doubled"]),
        node("Cast", ["doubled"], ["bytes"], to=TensorProto.UINT8),
        node("Transpose", ["bytes"], ["upscaled"], perm=[0, 2, 3, 1]),
    ]
    shape: list[str | int | None] = ["batch", "height", "width", 3]
    identity = [float(o == i and k == 4) for o in range(3) for i in range(3) for k in range(9)]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, shape)],
        [helper.make_tensor_value_info("upscaled", TensorProto.UINT8, shape)],
        [
            helper.make_tensor("two", TensorProto.FLOAT, [], [2.0]),
            helper.make_tensor("weight", TensorProto.FLOAT, [3, 3, 3, 3], identity),
            helper.make_tensor("bias", TensorProto.FLOAT, [3], [bias] * 3),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A model repository with the model `small`, version 1."""
    folder = tmp_path / "models" / "small"
    (folder / "configs").mkdir(parents=True)
    (folder / "1").mkdir()
    (folder / "configs" / "tensorrt.pbtxt").write_text(CONFIG)
    onnx.save(small_graph(), str(folder / "1" / "model.onnx"))
    return folder.parent


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Gpus:
    """Puts stand-ins in place of TensorRT and CUDA, with the GPUs given; one H200 at first."""
    monkeypatch.setitem(sys.modules, "tensorrt_bindings", fake_tensorrt)
    monkeypatch.setattr(versions, "library_version", lambda: "10.9.0")

    def put(*given: tuple[str, int, int]) -> FakeCuda:
        fake = FakeCuda(*given)
        monkeypatch.setattr(build_engines, "Cuda", lambda: Cuda(fake))
        return fake

    put(H200)
    return put
