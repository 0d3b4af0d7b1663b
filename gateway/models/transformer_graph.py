"""Puts a transformer together in ONNX, out of the weights that a published graph is made of."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from gateway.models.detector_graph import Graph
from gateway.models.ort_format import Weights

HEADS, HEAD, WIDTH = 8, 36, 288
TURNED, THETA = 32, 10_000.0  # of each head so many numbers turn with the position
EPSILON = 1e-5
OPSET, IR_VERSION = 17, 9

Floats = NDArray[np.float32]


class Transformer:
    """Appends parts of a transformer to a graph; names of nodes in the weights begin with `prefix`.

    Activations are [rows, WIDTH]: a row is a frame of the encoder, or a recording in the decoder.
    """

    def __init__(self, weights: Weights, prefix: str) -> None:
        self.graph = Graph()
        self._weights = weights
        self._prefix = prefix
        self.turn = self.graph.constant("turn", turning())

    def matrix(self, node: str) -> Floats:
        """The matrix of a node that multiplies, out of its 8 bits."""
        node = f"{self._prefix}{node}/MatMul_quant"
        # MatMulIntegerToFloat has (a, b, a's scale, b's scale, a's zero, b's zero), and
        # DynamicQuantizeMatMul (a, b, b's scale, b's zero, bias).
        places = (1, 3, 5) if len(self._weights.inputs[node]) == 6 else (1, 2, 3)
        whole, scale, zero = (self._weights.of(node, place) for place in places)
        return dequantised(whole, scale, zero)

    def bias(self, node: str) -> Floats:
        """What a node adds that multiplies."""
        found = self._weights.of(f"{self._prefix}{node}/MatMul_quant", 4)
        return found.astype(np.float32)

    def multiply(self, source: str, name: str, *matrices: Floats) -> str:
        """Append the product with the matrices side by side."""
        weight = self.graph.constant(f"{name}.weight", np.concatenate(matrices, axis=1))
        return self.graph.add("MatMul", [source, weight], name)

    def linear(self, source: str, name: str) -> str:
        """Append the product with a node's matrix, and its bias."""
        product = self.multiply(source, f"{name}.product", self.matrix(name))
        bias = self.graph.constant(f"{name}.bias", self.bias(name))
        return self.graph.add("Add", [product, bias], name)

    def normalise(self, source: str, name: str) -> str:
        """Append a layer normalisation, which has no bias here."""
        node = f"{self._prefix}{name}/LayerNormalization"
        known = node in self._weights.inputs  # else it is fused with what stands before it
        scale = self._weights.of(node, 1) if known else self._weights.tensors[f"{name}.weight"]
        weight = self.graph.constant(f"{name}.weight", scale)
        return self.graph.add("LayerNormalization", [source, weight], name, epsilon=EPSILON)

    def heads(self, source: str, name: str, count: int) -> str:
        """[rows, count * D] as [rows, count, D]."""
        return self.shape(source, name, -1, count, HEAD)

    def shape(self, source: str, name: str, *shape: int) -> str:
        """Append a change of shape."""
        return self.graph.add(
            "Reshape", [source, self.graph.numbers(f"{name}.shape", *shape)], name
        )

    def split(self, source: str, axis: int, **parts: int) -> list[str]:
        """Append a split into parts of the given names and sizes."""
        sizes = self.graph.numbers(f"{source}.sizes", *parts.values())
        names = [f"{source}.{part}" for part in parts]
        self.graph.nodes.append(helper.make_node("Split", [source, sizes], names, axis=axis))
        return names

    def angles(self, position: str) -> None:
        """Append the cosine and sine of each number's angle at `position`, FP32 [.., 1]."""
        speeds = np.zeros(HEAD, np.float32)
        speeds[:TURNED] = np.repeat(THETA ** -(np.arange(0, TURNED, 2) / TURNED), 2)
        angle = self.graph.add("Mul", [position, self.graph.constant("speeds", speeds)], "angle")
        self.graph.add("Cos", [angle], "cosine")
        self.graph.add("Sin", [angle], "sine")

    def query_key_value(self, source: str, name: str) -> list[str]:
        """Append q and k, turned by their position, and v of self attention: [rows, H, D] each."""
        add = self.graph.add
        query, key, value = (self.matrix(f"{name}/{part}_proj") for part in "qkv")
        product = self.multiply(source, f"{name}.product", query * HEAD**-0.5, key, value)
        together = self.heads(product, f"{name}.heads", 3 * HEADS)
        both, value_ = self.split(together, 1, turned=2 * HEADS, value=HEADS)
        still = add("Mul", [both, "cosine"], f"{name}.still")
        across = add("MatMul", [both, self.turn], f"{name}.across")
        moved = add("Mul", [across, "sine"], f"{name}.moved")
        turned = add("Add", [still, moved], f"{name}.turned")
        return [*self.split(turned, 1, query=HEADS, key=HEADS), value_]

    def attend(self, query: str, key: str, value: str, name: str, mask: str = "") -> str:
        """Append attention of [.., Q, D] to [.., D, K] and [.., K, D]."""
        add = self.graph.add
        score = add("MatMul", [query, key], f"{name}.score")
        if mask:
            score = add("Add", [score, mask], f"{name}.masked")
        share = add("Softmax", [score], f"{name}.share", axis=-1)
        return add("MatMul", [share, value], f"{name}.attended")

    def project(self, attended: str, residual: str, name: str) -> str:
        """Append the heads' joint projection, and add it to the residual."""
        joined = self.shape(attended, f"{name}.joined", -1, WIDTH)
        product = self.multiply(joined, f"{name}.projected", self.matrix(f"{name}/o_proj"))
        return self.graph.add("Add", [residual, product], f"{name}.sum")

    def gelu(self, source: str, name: str) -> str:
        """Append the Gaussian error linear unit, exact."""
        add, constant = self.graph.add, self.graph.constant
        root = constant(f"{name}.root", np.array(2**0.5, np.float32))
        error = add("Erf", [add("Div", [source, root], f"{name}.scaled")], f"{name}.erf")
        one = constant(f"{name}.one", np.array(1, np.float32))
        half = constant(f"{name}.half", np.array(0.5, np.float32))
        doubled = add("Mul", [source, add("Add", [error, one], f"{name}.above")], f"{name}.double")
        return add("Mul", [doubled, half], name)

    def model(
        self, name: str, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]
    ) -> onnx.ModelProto:
        """The finished model."""
        made = helper.make_graph(self.graph.nodes, name, inputs, outputs, self.graph.constants)
        model = helper.make_model(
            made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION,
            producer_name="nereid",
        )  # fmt: skip
        onnx.checker.check_model(model, full_check=True)
        return model


def turning() -> Floats:
    """The matrix that turns each pair (a, b) of a head by a quarter: (-b, a); what stays is 0."""
    matrix = np.zeros((HEAD, HEAD), np.float32)
    for even in range(0, TURNED, 2):
        matrix[even + 1, even] = -1
        matrix[even, even + 1] = 1
    return matrix


def dequantised(
    whole: NDArray[np.generic], scale: NDArray[np.generic], zero: NDArray[np.generic]
) -> Floats:
    """What 8 bits stand for; the difference is exact, the product is rounded once."""
    return (whole.astype(np.float32) - zero.astype(np.float32)) * scale.astype(np.float32)


def tensor(name: str, kind: int, *shape: str | int) -> onnx.ValueInfoProto:
    """An input or output."""
    return helper.make_tensor_value_info(name, kind, list(shape))
