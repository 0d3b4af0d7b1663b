"""Holds a graph against triton/operators.toml: what TensorRT's parser takes."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference

from engines.graphs import for_tensorrt
from engines.versions import ROOT

FILE = ROOT / "triton" / "operators.toml"
TYPES = {
    TensorProto.FLOAT: "FP32",
    TensorProto.FLOAT16: "FP16",
    TensorProto.BFLOAT16: "BF16",
    TensorProto.INT32: "INT32",
    TensorProto.INT64: "INT64",
    TensorProto.BOOL: "BOOL",
    TensorProto.UINT8: "UINT8",
}


def refusals_of(file: Path) -> list[str]:
    """Of a model's ONNX, as the engine is built from it."""
    return refusals(for_tensorrt(onnx.load(str(file))))


def refusals(model: onnx.ModelProto) -> list[str]:
    """What TensorRT's parser would refuse, a line for each node and reason; empty where nothing."""
    rules = tomllib.loads(FILE.read_text(encoding="utf-8"))
    opset = next(item.version for item in model.opset_import if item.domain in ("", "ai.onnx"))
    found = []
    if not rules["opset_oldest"] <= opset <= rules["opset_newest"]:
        found.append(f"opset {opset} is none of {rules['opset_oldest']} to {rules['opset_newest']}")
    graph = _Graph(shape_inference.infer_shapes(model).graph)
    for node in model.graph.node:
        rule = rules["operators"].get(node.op_type)
        if rule is None or node.domain not in ("", "ai.onnx"):
            reasons = ["is not among the operators of triton/operators.toml"]
        else:
            reasons = [
                *graph.wrong_types(node, rule),
                *graph.wrong_bytes(node),
                *graph.wrong_constants(node, rule),
                *_wrong_attributes(node, rule),
            ]
        found += [f"{node.op_type} {node.output[0]!r} {reason}" for reason in reasons]
    return found


class _Graph:
    """Types and constants of a graph by tensor name."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        infos = [*graph.input, *graph.output, *graph.value_info]
        self._types = {info.name: info.type.tensor_type.elem_type for info in infos}
        self._constants = {item.name: item for item in graph.initializer}
        self._types |= {name: item.data_type for name, item in self._constants.items()}
        for node in graph.node:
            for item in node.attribute if node.op_type == "Constant" else ():
                if item.name == "value":
                    self._constants[node.output[0]] = item.t
        self._ends = {info.name for info in (*graph.input, *graph.output)}

    def wrong_types(self, node: onnx.NodeProto, rule: dict[str, Any]) -> list[str]:
        """Inputs of a type that the operator does not take."""
        first = (
            range(len(node.input)) if node.op_type == "Concat" else range(min(1, len(node.input)))
        )
        names = [node.input[place] for place in rule.get("inputs_typed", first)]
        types = [TYPES.get(self._types.get(name, 0), "a type unknown") for name in names]
        return [
            f"reads {kind} from {name!r} and takes {', '.join(rule['types'])}"
            for name, kind in zip(names, types, strict=True)
            if kind not in rule["types"]
        ]

    def wrong_bytes(self, node: onnx.NodeProto) -> list[str]:
        """Bytes anywhere but at the network's ends."""
        return [
            f"writes UINT8 to {name!r}, which is no output of the network"
            for name in node.output
            if self._types.get(name) == TensorProto.UINT8 and name not in self._ends
        ]

    def wrong_constants(self, node: onnx.NodeProto, rule: dict[str, Any]) -> list[str]:
        """Inputs that must be constant and are not, or are too large; and too many outputs."""
        found = [
            f"must have a constant at input {place}"
            for place in rule.get("constant_inputs", ())
            if place < len(node.input) and node.input[place] not in {"", *self._constants}
        ]
        if (limit := rule.get("below")) and not found:
            value = numpy_helper.to_array(self._constants[node.input[limit["input"]]])
            if (np.asarray(value) >= limit["limit"]).any():
                found.append(
                    f"has {value.tolist()} at input {limit['input']}, not below {limit['limit']}"
                )
        if len([name for name in node.output if name]) > rule.get("outputs", len(node.output)):
            found.append(f"has {len(node.output)} outputs and may have {rule['outputs']}")
        return found


def _wrong_attributes(node: onnx.NodeProto, rule: dict[str, Any]) -> list[str]:
    found = []
    for attribute in node.attribute:
        allowed = rule.get("attributes", {}).get(attribute.name)
        value = helper.get_attribute_value(attribute)
        value = value.decode() if isinstance(value, bytes) else value
        if allowed is not None and value not in allowed:
            found.append(f"has {attribute.name} = {value}, which is none of {allowed}")
    return found
