"""Translate NanoDet from TensorFlow.js's two files into an ONNX file that serves detections.

Run by scripts/build_models.py. TensorFlow computes in NHWC with a transposition around every
operator; the ONNX is NCHW throughout: transpositions are followed on paper, padding and bias move
into the convolutions, and only the bytes that come in are transposed.
"""

from __future__ import annotations

import argparse
import base64
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from gateway.models.detector_graph import Graph, add_detections, detector_model

# NanoDet's configuration nanodet-g.yml: normalisation in BGR, reg_max 10, these strides; NMS as in
# its head (multiclass_nms, IoU 0.6). Its least score, 0.05, is for measuring accuracy.
MEAN_BGR = np.array([103.53, 116.28, 123.675], np.float32)
DEVIATION_BGR = np.array([57.375, 57.12, 58.395], np.float32)
STRIDES, BINS, CLASSES, SIDE = (8, 16, 32), 11, 80, 416
IOU, MIN_SCORE = 0.6, 0.2

NHWC, NCHW = "NHWC", "NCHW"
# All that stands behind the heads, which this script writes anew, and arithmetic with shapes.
BEHIND_HEADS = {"Sigmoid", "Reshape", "Identity", "SparseToDense", "AddV2", "Const", "Placeholder"}

Constants = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Value:
    """A tensor: its ONNX name (NCHW), the order TensorFlow sees, its size, padding to come."""

    name: str
    order: str
    side: int
    padding: int = 0


def read_constants(model: dict[str, Any], weights: Path) -> Constants:
    """All weights by name, in FP32 or whole numbers; every byte of the file must be used."""
    data = weights.read_bytes()
    constants: Constants = {}
    at = 0
    for entry in model["weightsManifest"][0]["weights"]:
        kind = np.dtype(entry["dtype"])
        stored = np.dtype(entry.get("quantization", entry)["dtype"])
        count = int(np.prod(entry["shape"]))
        values = np.frombuffer(data, stored, count, at).reshape(entry["shape"])
        constants[entry["name"]] = values.astype(kind)
        at += count * stored.itemsize
    if at != len(data):
        raise ValueError(f"{len(data) - at} bytes of weights belong to no tensor")
    return constants


class Translator:
    """Appends a network's operators to a graph, up to its heads."""

    def __init__(self, graph: Graph, constants: Constants, image: Value) -> None:
        self._graph = graph
        self._constants = constants
        self._image = image
        self._values: dict[str, Value] = {}

    def translate(self, nodes: list[dict[str, Any]]) -> list[Value]:
        """Append all operators; return the heads, which TensorFlow splits into scores and boxes."""
        kinds = {
            "Transpose": self._transpose,
            "Pad": self._pad,
            "PadV2": self._pad,
            "Conv2D": self._convolution,
            "MaxPool": self._max_pool,
            "LeakyRelu": self._leaky_relu,
            "Add": self._sum,
            "ConcatV2": self._concat,
            "ResizeBilinear": self._resize,
        }
        heads = []
        for node in nodes:
            name, op = node["name"], node["op"]
            known = [
                self._values[source] for source in node.get("input", []) if source in self._values
            ]
            if op == "Placeholder":
                self._values[name] = self._image
            elif op == "SplitV":
                expect(node, self._constant(node, 1).tolist() == [CLASSES, 4 * BINS])
                heads += known
            elif op in kinds:
                if known:
                    self._values[name] = kinds[op](node, known)
            elif op not in BEHIND_HEADS:
                raise ValueError(f"{name}: no translation for {op}")
        return heads

    def _constant(self, node: dict[str, Any], index: int) -> NDArray[Any]:
        return self._constants[node["input"][index]]

    def _transpose(self, node: dict[str, Any], sources: list[Value]) -> Value:
        (source,) = sources
        order = "".join(source.order[axis] for axis in self._constant(node, 1))
        return replace(source, order=order)

    def _pad(self, node: dict[str, Any], sources: list[Value]) -> Value:
        """Padding by one on all four sides, kept for the operator that comes."""
        (source,) = sources
        expect(node, source.order == NCHW and source.padding == 0)
        expect(node, self._constant(node, 1).tolist() == [[0, 0], [0, 0], [1, 1], [1, 1]])
        # ONNX pads with 0 before a convolution and with the least value before MaxPool.
        expect(node, node["op"] == "Pad" or self._constant(node, 2) == -np.inf)
        return replace(source, padding=1)

    def _convolution(self, node: dict[str, Any], sources: list[Value]) -> Value:
        (source,) = sources
        expect(node, source.order == NHWC)
        kernel = self._constant(node, 1).transpose(3, 2, 0, 1)
        return self._window(node, "Conv", source, kernel.shape[2], kernel)

    def _max_pool(self, node: dict[str, Any], sources: list[Value]) -> Value:
        (source,) = sources
        expect(node, source.order == NHWC)
        return self._window(node, "MaxPool", source, attribute(node, "ksize")[1], None)

    def _window(
        self, node: dict[str, Any], op: str, source: Value, size: int, kernel: NDArray[Any] | None
    ) -> Value:
        expect(node, base64.b64decode(node["attr"]["padding"]["s"]) == b"VALID")
        stride = attribute(node, "strides")[1]
        inputs = [source.name]
        if kernel is not None:
            inputs.append(self._graph.constant(f"{node['name']}.weight", kernel))
        name = self._graph.add(
            op,
            inputs,
            node["name"],
            kernel_shape=[size, size],
            pads=[source.padding] * 4,
            strides=[stride, stride],
        )
        side = (source.side + 2 * source.padding - size) // stride + 1
        return Value(name, NHWC, side)

    def _leaky_relu(self, node: dict[str, Any], sources: list[Value]) -> Value:
        (source,) = sources
        alpha = node["attr"]["alpha"]["f"]
        return self._same(
            source, self._graph.add("LeakyRelu", [source.name], node["name"], alpha=alpha)
        )

    def _sum(self, node: dict[str, Any], sources: list[Value]) -> Value:
        """The sum of two features, or the bias of a convolution."""
        if len(sources) == 2:
            expect(node, sources[0].order == sources[1].order)
            names = [source.name for source in sources]
            return self._same(sources[0], self._graph.add("Add", names, node["name"]))
        (source,) = sources
        convolution = self._graph.nodes[-1]
        for made in self._graph.nodes:
            if made.name == source.name:
                convolution = made
        expect(node, convolution.op_type == "Conv" and source.order == NHWC)
        bias = self._constant(node, 1)
        convolution.input.append(self._graph.constant(f"{node['name']}.bias", bias))
        return source

    def _concat(self, node: dict[str, Any], sources: list[Value]) -> Value:
        axis = int(self._constant(node, -1))
        expect(node, all(source.order == NCHW and not source.padding for source in sources))
        names = [source.name for source in sources]
        return self._same(sources[0], self._graph.add("Concat", names, node["name"], axis=axis))

    def _resize(self, node: dict[str, Any], sources: list[Value]) -> Value:
        (source,) = sources
        expect(node, source.order == NHWC and node["attr"]["half_pixel_centers"]["b"])
        side = int(self._constant(node, 1)[0])
        if 2 * side == source.side:  # pixel centres fall between four pixels: their mean
            how = {"kernel_shape": [2, 2], "strides": [2, 2]}
            name = self._graph.add("AveragePool", [source.name], node["name"], **how)
        else:
            factors = np.array([1, 1, side / source.side, side / source.side], np.float32)
            scales = self._graph.constant(f"{node['name']}.scales", factors)
            name = self._graph.add(
                "Resize",
                [source.name, "", scales],
                node["name"],
                mode="linear",
                coordinate_transformation_mode="half_pixel",
            )
        return Value(name, NHWC, side)

    @staticmethod
    def _same(source: Value, name: str) -> Value:
        return replace(source, name=name)


def attribute(node: dict[str, Any], name: str) -> list[int]:
    """An attribute that is a list of whole numbers."""
    return [int(number) for number in node["attr"][name]["list"]["i"]]


def expect(node: dict[str, Any], holds: object) -> None:
    """Raise ValueError where the operator is of another form than this translation knows."""
    if not holds:
        raise ValueError(f"{node['name']}: {node['op']} is of a form that was not foreseen")


def add_planes(graph: Graph) -> Value:
    """From `image` (bytes, NHWC, RGB) to planes around zero; the scale is in the first kernel.

    Transposed last: OpenVINO convolves NHWC in memory, where this transposition costs nothing.
    """
    numbers = graph.add("Cast", ["image"], "numbers", to=onnx.TensorProto.FLOAT)
    centred = graph.add("Sub", [numbers, graph.constant("mean", MEAN_BGR[::-1])], "centred")
    return Value(graph.add("Transpose", [centred], "planes", perm=[0, 3, 1, 2]), NCHW, SIDE)


def fold_normalisation(nodes: list[dict[str, Any]], constants: Constants) -> None:
    """Let the first convolution take RGB, and divide by the deviation."""
    first = next(node for node in nodes if node["op"] == "Conv2D")["input"][1]
    constants[first] = (constants[first] / DEVIATION_BGR[:, None])[:, :, ::-1]


def add_boxes(graph: Graph, heads: list[Value]) -> tuple[str, str]:
    """From the heads to `boxes` (N x cells x 4: left, top, right, bottom) and `scores`.

    For pictures of any size whose sides are multiples of the largest stride.
    """
    graph.numbers("head.shape", 0, CLASSES + 4 * BINS, -1)
    graph.numbers("head.parts", CLASSES, 4 * BINS)
    graph.numbers("bins.shape", 0, 4, BINS, -1)
    graph.numbers("bins.axis", 2)
    for name, number in (("from", 0), ("step", 1), ("rows", 2), ("columns", 3)):
        graph.constant(f"grid.{name}", np.array(number, np.int64))
    graph.numbers("axis.first", 0)
    graph.numbers("axis.second", 1)
    graph.numbers("line", -1)
    graph.constant("half", np.array(0.5, np.float32))
    found = [add_head(graph, head, stride) for head, stride in zip(heads, STRIDES, strict=True)]
    corners, scores = (
        graph.add("Concat", list(parts), name, axis=2)
        for name, parts in zip(("corners", "scores"), zip(*found, strict=True), strict=True)
    )
    start = graph.constant("picture.start", np.array(0, np.float32))
    inside = graph.add("Max", [corners, start], "corners.after.start")
    inside = graph.add("Min", [inside, add_end(graph)], "corners.inside")
    return graph.add("Transpose", [inside], "boxes", perm=[0, 2, 1]), scores


def add_head(graph: Graph, head: Value, stride: int) -> tuple[str, str]:
    """One head's corners (N x 4 x cells, pixels) and scores (N x classes x cells)."""
    own = f"stride{stride}"
    flat = graph.add("Reshape", [head.name, "head.shape"], f"{own}.flat")
    names = [f"{own}.logits", f"{own}.bins"]
    graph.nodes.append(
        onnx.helper.make_node("Split", [flat, "head.parts"], names, f"{own}.parts", axis=1)
    )
    scores = graph.add("Sigmoid", [names[0]], f"{own}.scores")
    sides = graph.add("Reshape", [names[1], "bins.shape"], f"{own}.sides")
    shares = graph.add("Softmax", [sides], f"{own}.shares", axis=2)
    # The expectation over the bins, in pixels away from the cell's centre: minus to left and top.
    steps = stride * np.arange(BINS).reshape(1, 1, BINS, 1)
    signs = np.array([-1, -1, 1, 1]).reshape(1, 4, 1, 1)
    factors = graph.constant(f"{own}.steps", (steps * signs).astype(np.float32))
    weighted = graph.add("Mul", [shares, factors], f"{own}.weighted")
    distances = graph.add("ReduceSum", [weighted, "bins.axis"], f"{own}.distances", keepdims=0)
    centres = add_centres(graph, head, stride)
    return graph.add("Add", [distances, centres], f"{own}.corners"), scores


def add_centres(graph: Graph, head: Value, stride: int) -> str:
    """4 x cells: x, y, x, y of each cell's centre in pixels, row by row."""
    own = f"stride{stride}"
    shape = graph.add("Shape", [head.name], f"{own}.shape")
    length = graph.constant(f"{own}.length", np.array(stride, np.float32))
    lines: dict[str, str] = {}
    for axis in ("rows", "columns"):
        count = graph.add("Gather", [shape, f"grid.{axis}"], f"{own}.{axis}.count", axis=0)
        numbers = graph.add("Range", ["grid.from", count, "grid.step"], f"{own}.{axis}.numbers")
        numbers = graph.add("Cast", [numbers], f"{own}.{axis}.floats", to=onnx.TensorProto.FLOAT)
        numbers = graph.add("Add", [numbers, "half"], f"{own}.{axis}.middles")
        lines[axis] = graph.add("Mul", [numbers, length], f"{own}.{axis}.pixels")
    x = graph.add("Unsqueeze", [lines["columns"], "axis.first"], f"{own}.x")
    y = graph.add("Unsqueeze", [lines["rows"], "axis.second"], f"{own}.y")
    flat: list[str] = []
    for name, one, other in (("x", x, y), ("y", y, x)):
        none = graph.add("Sub", [other, other], f"{own}.{name}.zeros")
        grid = graph.add("Add", [one, none], f"{own}.{name}.grid")
        line = graph.add("Reshape", [grid, "line"], f"{own}.{name}.line")
        flat.append(graph.add("Unsqueeze", [line, "axis.first"], f"{own}.{name}.row"))
    return graph.add("Concat", [*flat, *flat], f"{own}.centres", axis=0)


def add_end(graph: Graph) -> str:
    """4 x 1: the picture's width and height, twice."""
    shape = graph.add("Shape", ["image"], "image.shape")
    end = graph.add("Gather", [shape, graph.numbers("ends", 2, 1, 2, 1)], "image.ends", axis=0)
    end = graph.add("Cast", [end], "image.ends.floats", to=onnx.TensorProto.FLOAT)
    return graph.add("Unsqueeze", [end, "axis.second"], "picture.end")


def translate(name: str, topology: Path, weights: Path) -> onnx.ModelProto:
    """The served model, straight from TensorFlow.js's files."""
    model = json.loads(topology.read_text(encoding="utf-8"))
    nodes = model["modelTopology"]["node"]
    constants = read_constants(model, weights)
    fold_normalisation(nodes, constants)
    graph = Graph()
    heads = Translator(graph, constants, add_planes(graph)).translate(nodes)
    if [head.side for head in heads] != [SIDE // stride for stride in STRIDES]:
        raise ValueError(f"the heads are {[head.side for head in heads]} cells wide")
    boxes, scores = add_boxes(graph, heads)
    add_detections(graph, boxes, scores, min_score=MIN_SCORE, iou=IOU)
    return detector_model(graph, name, "height", "width")


def main() -> None:
    """Write one ONNX file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("--topology", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    model = translate(given.name, given.topology, given.weights)
    given.output.parent.mkdir(parents=True, exist_ok=True)
    # Serialised here, not by onnx.save, so that the bytes are the same each time.
    given.output.write_bytes(model.SerializeToString(deterministic=True))


if __name__ == "__main__":
    main()
