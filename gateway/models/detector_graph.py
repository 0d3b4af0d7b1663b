"""The two ends of a served detector: pictures of bytes in, at most 100 rows of detections out.

What a detector must be is written in docs/models.md and checked by functions/_kit/capabilities.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from functions._kit.capabilities import MAX_DETECTIONS

OPSET, IR_VERSION = 17, 9


@dataclass
class Graph:
    """ONNX nodes and constants in the making."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)

    def constant(self, name: str, value: NDArray[np.generic]) -> str:
        """Keep `value` under `name` and return the name."""
        self.constants.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
        return name

    def add(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Append one node with one output, named like that output, and return the name."""
        self.nodes.append(helper.make_node(op, inputs, [output], output, **attributes))
        return output

    def numbers(self, name: str, *values: int) -> str:
        """Keep whole numbers as a constant of one dimension."""
        return self.constant(name, np.array(values, np.int64))


def add_detections(
    graph: Graph, boxes: str, scores: str, *, min_score: float, iou: float, batch: str = "image"
) -> str:
    """Append NMS per class; return the output `detections`, N x 100 x 6.

    `boxes` is N x M x 4 (left, top, right, bottom in pixels), `scores` N x classes x M; the first
    dimension of `batch` is N.
    """
    most = graph.numbers("detections.most", MAX_DETECTIONS)
    limits = [
        graph.constant(name, np.array(value, np.float32))
        for name, value in (("detections.iou", iou), ("detections.min_score", min_score))
    ]
    found = graph.add("NonMaxSuppression", [boxes, scores, most, *limits], "found")
    # NMS finds any number of (picture, class, box) in all pictures together; a hundred empty ones
    # behind them, of no picture, let TopK take a hundred for each picture.
    nothing = graph.constant("empty", np.zeros((MAX_DETECTIONS, 3), np.int64))
    padded = graph.add("Concat", [found, nothing], "padded", axis=0)
    score = graph.add("GatherND", [scores, padded], "score")
    graph.constant("empty.picture", np.full(MAX_DETECTIONS, -1, np.int64))
    zero, one = graph.numbers("index.0", 0), graph.numbers("index.1", 1)
    column = graph.constant("column.picture", np.array(0, np.int64))
    pictures = graph.add("Gather", [found, column], "found.picture", axis=1)
    pictures = graph.add("Concat", [pictures, "empty.picture"], "picture", axis=0)
    ranked = _rank(graph, pictures, score, batch)
    place = graph.add("Gather", [padded, graph.numbers("columns.place", 0, 2)], "place", axis=1)
    box = graph.add("GatherND", [boxes, place], "box")
    corner = graph.add("Slice", [box, zero, graph.numbers("index.2", 2), one], "corner")
    opposite = graph.add("Slice", [box, "index.2", graph.numbers("index.4", 4), one], "opposite")
    size = graph.add("Sub", [opposite, corner], "size")
    label = graph.add("Gather", [padded, one], "label", axis=1)
    label = graph.add("Cast", [label], "label.number", to=TensorProto.FLOAT)
    score = graph.add("Unsqueeze", [score, one], "score.column")
    rows = graph.add("Concat", [corner, size, score, label], "rows", axis=1)
    best = graph.add("Gather", [rows, ranked], "best", axis=0)
    kept = graph.add("Greater", ["ranked.score", "none"], "kept")
    kept = graph.add("Cast", [kept], "kept.number", to=TensorProto.FLOAT)
    kept = graph.add("Unsqueeze", [kept, "index.2"], "kept.column")
    return graph.add("Mul", [best, kept], "detections")


def _rank(graph: Graph, pictures: str, score: str, batch: str) -> str:
    """N x 100 positions of each picture's best; their scores are `ranked.score`, 0 where empty."""
    shape = graph.add("Shape", [batch], "batch.shape")
    scalar = [
        graph.constant(name, np.array(value, np.int64))
        for name, value in (("count.from", 0), ("count.step", 1))
    ]
    count = graph.add("Gather", [shape, scalar[0]], "batch.size", axis=0)
    numbers = graph.add("Range", [scalar[0], count, scalar[1]], "batch.numbers")
    numbers = graph.add("Unsqueeze", [numbers, "index.1"], "batch.column")
    own = graph.add("Equal", [pictures, numbers], "own")
    none = graph.constant("none", np.array(0, np.float32))
    scores = graph.add("Where", [own, score, none], "own.score")
    graph.nodes.append(
        helper.make_node(
            "TopK", [scores, "detections.most"], ["ranked.score", "ranked"], "ranked", axis=1
        )
    )
    return "ranked"


def detector_model(
    graph: Graph,
    name: str,
    height: int | str,
    width: int | str,
    *,
    batch: str | int = "batch",
    like: onnx.ModelProto | None = None,
) -> onnx.ModelProto:
    """The finished model, checked: `image` to `detections`.

    Operator sets and functions are those of `like`, the network inside, where there is one.
    """
    shape: list[str | int | None] = [batch, height, width, 3]
    rows: list[str | int | None] = [batch, MAX_DETECTIONS, 6]
    made = helper.make_graph(
        graph.nodes,
        name,
        [helper.make_tensor_value_info("image", TensorProto.UINT8, shape)],
        [helper.make_tensor_value_info("detections", TensorProto.FLOAT, rows)],
        graph.constants,
    )
    opsets = list(like.opset_import) if like else [helper.make_opsetid("", OPSET)]
    model = helper.make_model(
        made,
        opset_imports=opsets,
        functions=list(like.functions) if like else [],
        ir_version=like.ir_version if like else IR_VERSION,
        producer_name="nereid",
    )
    onnx.checker.check_model(model)
    return model
