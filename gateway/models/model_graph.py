"""Puts pictures before and after a network: NHWC in and out, whatever the network computes in."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, compose, helper, numpy_helper

from functions._kit.errors import Unprocessable

OLDEST_OPSET = 13
FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)
PREFIX = "network/"


def serve_as_is(network: onnx.ModelProto, name: str) -> onnx.ModelProto | None:
    """The network itself where it takes and gives pictures of bytes under our names; else None."""
    source, result = _ends(network)
    if _kind(source) != TensorProto.UINT8 or _kind(result) != TensorProto.UINT8:
        return None
    if (source.name, result.name) != ("image", "upscaled"):
        raise _unsupported("a graph of bytes must call its input `image`, its output `upscaled`.")
    _expect_open(source, channels=3)
    served = onnx.ModelProto()
    served.CopyFrom(network)
    served.graph.name = name
    return served


def picture_graph(network: onnx.ModelProto, name: str, bits: int) -> onnx.ModelProto:
    """The network (planes 0..1, N x 3 x H x W) between whole numbers of `bits` bits.

    Raises `Unprocessable` (`model_unsupported`) for a network of another form.
    """
    source, result = _ends(network)
    kind = _kind(source)
    if kind not in FLOATS or _kind(result) not in FLOATS:
        raise _unsupported("input and output must both be float or both uint8.")
    _expect_open(source, channels=1)
    opset = next((o.version for o in network.opset_import if o.domain in ("", "ai.onnx")), 0)
    if opset < OLDEST_OPSET:
        raise _unsupported(f"opset {opset} is too old: export with opset {OLDEST_OPSET} or newer.")
    inner = compose.add_prefix(network, PREFIX)
    wire = TensorProto.UINT8 if bits == 8 else TensorProto.FLOAT
    constants = [
        numpy_helper.from_array(np.array(value, np.float32), label)
        for label, value in (("white", 2**bits - 1), ("black", 0), ("full", 1))
    ]
    before = [
        helper.make_node("Cast", ["image"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["numbers", "white"], ["unit"]),
        helper.make_node("Transpose", ["unit"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["planes"], [PREFIX + source.name], to=kind),
    ]
    after = [
        helper.make_node("Cast", [PREFIX + result.name], ["answer"], to=TensorProto.FLOAT),
        helper.make_node("Clip", ["answer", "black", "full"], ["clipped"]),
        helper.make_node("Mul", ["clipped", "white"], ["brightness"]),
        helper.make_node("Round", ["brightness"], ["rounded"]),
        helper.make_node("Cast", ["rounded"], ["wire"], to=wire),
        helper.make_node("Transpose", ["wire"], ["upscaled"], perm=[0, 2, 3, 1]),
    ]
    small: list[str | int | None] = ["batch", "height", "width", 3]
    large: list[str | int | None] = ["batch", "high", "wide", 3]
    made = helper.make_graph(
        [*before, *inner.graph.node, *after],
        name,
        [helper.make_tensor_value_info("image", wire, small)],
        [helper.make_tensor_value_info("upscaled", wire, large)],
        [*constants, *inner.graph.initializer],
    )
    made.sparse_initializer.extend(inner.graph.sparse_initializer)
    model = helper.make_model(
        made,
        opset_imports=list(inner.opset_import),
        functions=list(inner.functions),
        ir_version=inner.ir_version,
        producer_name="nereid",
    )
    onnx.checker.check_model(model)
    return model


def network_inputs(network: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """What the network is given, without its constants, which old exports list as inputs too."""
    constants = {constant.name for constant in network.graph.initializer}
    return [value for value in network.graph.input if value.name not in constants]


def _ends(network: onnx.ModelProto) -> tuple[onnx.ValueInfoProto, onnx.ValueInfoProto]:
    """The one input and the one output."""
    inputs, outputs = network_inputs(network), list(network.graph.output)
    if len(inputs) != 1 or len(outputs) != 1:
        raise _unsupported(f"it has {len(inputs)} inputs and {len(outputs)} outputs, not 1 and 1.")
    return inputs[0], outputs[0]


def _expect_open(value: onnx.ValueInfoProto, *, channels: int) -> None:
    """Refuse an input without three channels on axis `channels`, or whose size is fixed."""
    dims = value.type.tensor_type.shape.dim
    if len(dims) != 4 or dims[channels].dim_value not in (0, 3):
        raise _unsupported("the input must be pictures of 3 channels, N x 3 x H x W.")
    if any(dims[axis].dim_value for axis in range(1, 4) if axis != channels):
        raise _unsupported("height and width are fixed: export with dynamic axes.")


def _kind(value: onnx.ValueInfoProto) -> int:
    return int(value.type.tensor_type.elem_type)


def _unsupported(message: str) -> Unprocessable:
    return Unprocessable("model_unsupported", f"The ONNX does not fit: {message}", field="file")
