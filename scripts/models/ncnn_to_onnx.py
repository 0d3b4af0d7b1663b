"""Translate one Real-ESRGAN network from ncnn's two files into an ONNX file that serves pictures.

Run by scripts/build_models.py. The ONNX takes and gives whole pictures, NHWC, RGB: `image` and
`upscaled` as UINT8, or with `--bits 16` as FP32 holding whole numbers 0..65535, for TensorRT knows
no 16-bit integers. Between them the network computes in FP32 on the range 0..1.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

# ncnn's ModelBin: this tag says that half-precision weights follow, padded to four bytes.
HALF_PRECISION_TAG = 0x01306B47
# ncnn's Interp layer, key 0 (`resize_type`).
NEAREST, BICUBIC = 1, 3
OPSET, IR_VERSION = 17, 9
# A tail at the full size of the result is computed in this many bands, one after the other: its
# 64 channels at 16 times the pixels would need six times the memory of all the layers before it.
BANDS = 8
# Four 3x3 convolutions behind the first enlargement reach 1.25 pixels of the small picture.
BAND_HALO = 2


@dataclass(frozen=True)
class Layer:
    """One line of a .param file; `values` maps ncnn's numbered keys to their text."""

    kind: str
    name: str
    inputs: list[str]
    outputs: list[str]
    values: dict[str, str]


def read_layers(param: Path) -> list[Layer]:
    """All layers: after a header of two lines, `kind name n_in n_out in.. out.. key=value..`."""
    layers = []
    for line in param.read_text(encoding="ascii").splitlines()[2:]:
        kind, name, inputs, outputs, *rest = line.split()
        end_in = int(inputs)
        end_out = end_in + int(outputs)
        values = dict(item.split("=", 1) for item in rest[end_out:])
        layers.append(Layer(kind, name, rest[:end_in], rest[end_in:end_out], values))
    return layers


class WeightReader:
    """Reads a .bin file from front to end, as ncnn itself does."""

    def __init__(self, path: Path) -> None:
        self._bytes = path.read_bytes()
        self._at = 0

    def full(self, count: int) -> NDArray[np.float32]:
        """The next `count` single-precision numbers."""
        values = np.frombuffer(self._bytes, "<f4", count, self._at).astype(np.float32)
        self._at += 4 * count
        return values

    def tagged_half(self, count: int) -> NDArray[np.float32]:
        """The next `count` weights, stored in half precision behind ncnn's tag."""
        tag = int.from_bytes(self._bytes[self._at : self._at + 4], "little")
        if tag != HALF_PRECISION_TAG:
            raise ValueError(f"byte {self._at}: tag {tag:#x} is not half precision")
        values = np.frombuffer(self._bytes, "<f2", count, self._at + 4).astype(np.float32)
        self._at += 4 + (2 * count + 3) // 4 * 4
        return values

    def expect_end(self) -> None:
        """Raise ValueError unless every byte was read: a miscounted layer would show here."""
        if self._at != len(self._bytes):
            raise ValueError(f"{len(self._bytes) - self._at} bytes of weights belong to no layer")


@dataclass
class Graph:
    """ONNX nodes and constants in the making."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)

    def constant(self, name: str, value: NDArray[np.generic]) -> str:
        """Keep `value` under `name` and return the name."""
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def add(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Append one node with one output, named like that output, and return the name."""
        self.nodes.append(helper.make_node(op, inputs, [output], output, **attributes))
        return output

    def scale(self, source: str, factor: float, output: str) -> str:
        """Multiply by a constant."""
        constant = self.constant(f"{output}.factor", np.array(factor, np.float32))
        return self.add("Mul", [source, constant], output)

    def whole(self, number: int) -> str:
        """A whole number for arithmetic with shapes, kept once."""
        name = f"whole.{number}"
        known = any(constant.name == name for constant in self.constants)
        return name if known else self.constant(name, np.array([number], np.int64))


class Translator:
    """Appends a network's layers to a graph, one method per kind of layer."""

    def __init__(self, graph: Graph, weights: WeightReader, image: str) -> None:
        self._graph = graph
        self._weights = weights
        self._image = image
        self._names: dict[str, str] = {}
        self._parameters: dict[str, list[str]] = {}
        self._band = ""

    def translate(self, layers: list[Layer]) -> str:
        """Append all layers; return the name of the network's output."""
        tail = full_size_tail(layers)
        features = self._append(layers[: len(layers) - len(tail)])
        result = self._in_bands(tail, features) if tail else features
        self._weights.expect_end()
        return result

    def _in_bands(self, tail: list[Layer], features: str) -> str:
        """Append the tail once for each band of rows, so that one band at a time is in memory."""
        graph, scale = self._graph, enlargement(tail)
        shape = graph.add("Shape", [features], "features.shape")
        height = graph.add("Gather", [shape, graph.whole(2)], "features.height", axis=0)
        edges = []
        for index in range(BANDS + 1):
            times = graph.add("Mul", [height, graph.whole(index)], f"edge.{index}.times")
            edges.append(graph.add("Div", [times, graph.whole(BANDS)], f"edge.{index}"))
        pieces = []
        for index, (top, bottom) in enumerate(pairwise(edges)):
            name = self._band = f"band.{index}."
            halo, zero, factor = graph.whole(BAND_HALO), graph.whole(0), graph.whole(scale)
            above = graph.add("Sub", [top, halo], f"{name}above")
            start = graph.add("Max", [above, zero], f"{name}start")
            below = graph.add("Add", [bottom, halo], f"{name}below")
            stop = graph.add("Min", [below, height], f"{name}stop")
            rows = graph.add("Slice", [features, start, stop, graph.whole(2)], f"{name}rows")
            self._names[tail[0].inputs[0]] = rows
            enlarged = self._append(tail)
            skipped = graph.add("Sub", [top, start], f"{name}skipped")
            first = graph.add("Mul", [skipped, factor], f"{name}first")
            end = graph.add("Sub", [bottom, start], f"{name}end")
            last = graph.add("Mul", [end, factor], f"{name}last")
            pieces.append(
                graph.add("Slice", [enlarged, first, last, graph.whole(2)], f"{name}kept")
            )
        return graph.add("Concat", pieces, "joined", axis=2)

    def _append(self, layers: list[Layer]) -> str:
        kinds: dict[str, Callable[[Layer, list[str]], str]] = {
            "Input": lambda _layer, _sources: self._image,
            "Split": lambda _layer, sources: sources[0],
            "Convolution": self._convolution,
            "PReLU": self._prelu,
            "Concat": self._concat,
            "PixelShuffle": self._pixel_shuffle,
            "Interp": self._interp,
            "BinaryOp": self._binary_op,
            "Eltwise": self._eltwise,
        }
        result = ""
        for layer in layers:
            if layer.kind not in kinds:
                raise ValueError(f"layer {layer.name}: no translation for {layer.kind}")
            result = kinds[layer.kind](layer, [self._names[name] for name in layer.inputs])
            self._names.update(dict.fromkeys(layer.outputs, result))
        return result

    def _convolution(self, layer: Layer, sources: list[str]) -> str:
        expect(layer, {"1": "3", "4": "1", "5": "1"})  # 3x3, padded by 1, with bias
        name = f"{self._band}{layer.name}"
        inputs = [*sources, *self._weight_and_bias(layer)]
        result = self._graph.add("Conv", inputs, name, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
        if "9" not in layer.values:
            return result
        expect(layer, {"9": "2", "-23310": "1,2.000000e-01"})  # a leaky ReLU with slope 0.2
        return self._graph.add("LeakyRelu", [result], f"{name}.leaky", alpha=0.2)

    def _weight_and_bias(self, layer: Layer) -> list[str]:
        """Names of the layer's constants, read once however many bands use them."""
        if layer.name not in self._parameters:
            channels = int(layer.values["0"])
            kernel = self._weights.tagged_half(int(layer.values["6"])).reshape(channels, -1, 3, 3)
            self._parameters[layer.name] = [
                self._graph.constant(f"{layer.name}.weight", kernel),
                self._graph.constant(f"{layer.name}.bias", self._weights.full(channels)),
            ]
        return self._parameters[layer.name]

    def _prelu(self, layer: Layer, sources: list[str]) -> str:
        slopes = self._weights.full(int(layer.values["0"])).reshape(-1, 1, 1)
        slope = self._graph.constant(f"{layer.name}.slope", slopes)
        return self._graph.add("PRelu", [*sources, slope], layer.name)

    def _concat(self, layer: Layer, sources: list[str]) -> str:
        return self._graph.add("Concat", sources, layer.name, axis=1)

    def _pixel_shuffle(self, layer: Layer, sources: list[str]) -> str:
        blocksize = int(layer.values["0"])
        return self._graph.add("DepthToSpace", sources, layer.name, blocksize=blocksize, mode="CRD")

    def _interp(self, layer: Layer, sources: list[str]) -> str:
        height, width = float(layer.values["1"]), float(layer.values["2"])
        scales = np.array([1, 1, height, width], np.float32)
        name = f"{self._band}{layer.name}"
        inputs = [*sources, "", self._graph.constant(f"{name}.scales", scales)]
        if int(layer.values["0"]) == NEAREST:
            how = {"mode": "nearest", "nearest_mode": "floor"}
            how["coordinate_transformation_mode"] = "asymmetric"
            return self._graph.add("Resize", inputs, name, **how)
        expect(layer, {"0": str(BICUBIC)})
        # ncnn's cubic_coeffs uses A = -0.75, pixel centres at one half, and repeats the border.
        return self._graph.add(
            "Resize", inputs, name, mode="cubic", cubic_coeff_a=-0.75,
            coordinate_transformation_mode="half_pixel",
        )  # fmt: skip

    def _binary_op(self, layer: Layer, sources: list[str]) -> str:
        expect(layer, {})  # no key 0 means addition
        return self._graph.add("Add", sources, layer.name)

    def _eltwise(self, layer: Layer, sources: list[str]) -> str:
        count, *factors = layer.values["-23301"].split(",")
        if layer.values["0"] != "1" or int(count) != len(sources) or len(sources) != 2:
            raise ValueError(f"layer {layer.name}: not a weighted sum of two")
        terms = [
            source if float(factor) == 1 else self._graph.scale(source, float(factor), name)
            for source, factor, name in zip(
                sources, factors, (f"{layer.name}.a", f"{layer.name}.b"), strict=True
            )
        ]
        return self._graph.add("Add", terms, layer.name)


def full_size_tail(layers: list[Layer]) -> list[Layer]:
    """The layers from the first enlargement on, if they are one plain chain; else nothing."""
    doubles = [
        index
        for index, layer in enumerate(layers)
        if layer.kind == "Interp" and float(layer.values["1"]) == 2
    ]
    tail = layers[doubles[0] :] if doubles else []
    chain = all(layer.kind in ("Interp", "Convolution") for layer in tail)
    return tail if chain else []


def enlargement(layers: list[Layer]) -> int:
    """By how much these layers enlarge."""
    return math.prod(int(float(layer.values["1"])) for layer in layers if layer.kind == "Interp")


def expect(layer: Layer, values: dict[str, str]) -> None:
    """Raise ValueError where the layer is of another form than this translation knows."""
    for key, value in values.items():
        if layer.values.get(key) != value:
            raise ValueError(f"layer {layer.name}: {key}={layer.values.get(key)}, not {value}")


def picture_model(
    name: str, scale: int, bits: int, network: Callable[[Graph, str], str]
) -> onnx.ModelProto:
    """The model around `network`, which appends itself to a graph: planes 0..1 in, planes out."""
    graph = Graph()
    largest = float(2**bits - 1)
    numbers = "image"
    if bits == 8:
        numbers = graph.add("Cast", ["image"], "numbers", to=TensorProto.FLOAT)
    white = graph.constant("white", np.array(largest, np.float32))
    unit = graph.add("Div", [numbers, white], "unit")
    planes = graph.add("Transpose", [unit], "planes", perm=[0, 3, 1, 2])
    output = network(graph, planes)
    limits = [
        graph.constant(name, np.array(value, np.float32))
        for name, value in (("black", 0), ("full", 1))
    ]
    clipped = graph.add("Clip", [output, *limits], "clipped")
    rounded = graph.add("Round", [graph.add("Mul", [clipped, white], "brightness")], "rounded")
    if bits == 8:
        rounded = graph.add("Cast", [rounded], "bytes", to=TensorProto.UINT8)
    graph.add("Transpose", [rounded], "upscaled", perm=[0, 2, 3, 1])
    kind = TensorProto.UINT8 if bits == 8 else TensorProto.FLOAT
    small: list[str | int | None] = ["batch", "height", "width", 3]
    large: list[str | int | None] = ["batch", f"{scale}*height", f"{scale}*width", 3]
    inputs = [helper.make_tensor_value_info("image", kind, small)]
    outputs = [helper.make_tensor_value_info("upscaled", kind, large)]
    made = helper.make_graph(graph.nodes, name, inputs, outputs, graph.constants)
    model = helper.make_model(
        made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION,
        producer_name="nereid",
    )  # fmt: skip
    onnx.checker.check_model(model)
    return model


def translate(name: str, scale: int, bits: int, param: Path, weights: Path) -> onnx.ModelProto:
    """The picture model of one network, straight from its ncnn files."""

    def network(graph: Graph, planes: str) -> str:
        return Translator(graph, WeightReader(weights), planes).translate(read_layers(param))

    return picture_model(name, scale, bits, network)


def main() -> None:
    """Write one ONNX file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("--scale", type=int, required=True)
    parser.add_argument("--bits", type=int, choices=(8, 16), required=True)
    parser.add_argument("--param", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    model = translate(given.name, given.scale, given.bits, given.param, given.weights)
    given.output.parent.mkdir(parents=True, exist_ok=True)
    # Serialised here, not by onnx.save, so that the bytes are the same each time.
    given.output.write_bytes(model.SerializeToString(deterministic=True))


if __name__ == "__main__":
    main()
