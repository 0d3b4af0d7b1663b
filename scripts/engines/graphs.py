"""The same ONNX, put so that TensorRT's parser takes it. No number that it computes changes.

TensorRT knows bytes at the ends of a network alone: what comes in is cast at once, and what goes
out must be cast last. The served graphs cast before the last transposition, which moves a quarter
of the memory, and ask the bytes for their shape; both are turned round here.
"""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper


def for_tensorrt(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with bytes at its ends alone, as far as that takes no other operators."""
    turned = onnx.ModelProto()
    turned.CopyFrom(model)
    _ask_numbers_for_their_shape(turned.graph)
    _cast_last(turned.graph)
    return turned


def _ask_numbers_for_their_shape(graph: onnx.GraphProto) -> None:
    """Shape(bytes) becomes Shape(Cast(bytes)), and stands behind the Cast."""
    for source in graph.input:
        readers = [node for node in graph.node if source.name in node.input]
        cast = next((node for node in readers if node.op_type == "Cast"), None)
        if source.type.tensor_type.elem_type != TensorProto.UINT8 or cast is None:
            continue
        for node in [node for node in readers if node.op_type == "Shape"]:
            node.input[0] = cast.output[0]
            if _place(graph, node) < _place(graph, cast):
                moved = onnx.NodeProto()
                moved.CopyFrom(node)
                graph.node.remove(node)
                graph.node.insert(_place(graph, cast) + 1, moved)


def _cast_last(graph: onnx.GraphProto) -> None:
    """Transpose(Cast(numbers)) becomes Cast(Transpose(numbers)) where bytes go out."""
    makers = {output: node for node in graph.node for output in node.output}
    for result in graph.output:
        move = makers[result.name]
        cast = makers.get(move.input[0]) if move.op_type == "Transpose" else None
        if cast is None or cast.op_type != "Cast" or _target(cast) != TensorProto.UINT8:
            continue
        if sum(cast.output[0] in node.input for node in graph.node) > 1:
            continue
        between = f"{result.name}.numbers"
        move.input[0], move.output[0] = cast.input[0], between
        last = helper.make_node("Cast", [between], [result.name], cast.name, to=TensorProto.UINT8)
        graph.node.remove(cast)
        graph.node.insert(_place(graph, move) + 1, last)


def _place(graph: onnx.GraphProto, node: onnx.NodeProto) -> int:
    return next(place for place, other in enumerate(graph.node) if other is node or other == node)


def _target(cast: onnx.NodeProto) -> int:
    return next(int(attribute.i) for attribute in cast.attribute if attribute.name == "to")
