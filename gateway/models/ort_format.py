"""Reads the weights out of a model in ONNX Runtime's own file format, without ONNX Runtime.

The format is a flatbuffer: https://onnxruntime.ai/docs/reference/ort-format-models.html, schema
`onnxruntime/core/flatbuffers/schema/ort.fbs`. A table begins with the distance back to its vtable,
which holds the place of each field; the numbers of the fields below are those of the schema.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

IDENTIFIER = b"ORTM"
SESSION_MODEL, MODEL_GRAPH = 1, 7
GRAPH_INITIALIZERS, GRAPH_NODES = 0, 2
NODE_NAME, NODE_INPUTS, NODE_ATTRIBUTES = 0, 8, 10
ATTRIBUTE_GRAPH = 7
TENSOR_NAME, TENSOR_DIMS, TENSOR_TYPE, TENSOR_DATA = 0, 2, 3, 4
# The members of TensorDataType that weights have; others are not read.
TYPES: dict[int, np.dtype[np.generic]] = {
    1: np.dtype("<f4"),
    2: np.dtype("u1"),
    3: np.dtype("i1"),
}

Array = NDArray[np.generic]


@dataclass(frozen=True)
class Weights:
    """What a model's nodes are made with, those of both branches of an If included."""

    inputs: dict[str, list[str]] = field(default_factory=dict)
    """The names of each node's inputs, by the node's name."""
    tensors: dict[str, Array] = field(default_factory=dict)

    def of(self, node: str, place: int) -> Array:
        """The constant that goes into the node at `place`. Raises KeyError for what is none."""
        return self.tensors[self.inputs[node][place]]


def read_weights(path: Path) -> Weights:
    """All constants of a model. Raises ValueError for a file of another format."""
    data = path.read_bytes()
    if data[4:8] != IDENTIFIER:
        raise ValueError(f"{path.name} is no model in ONNX Runtime's format")
    session = Table(data, whole(data, 0))
    weights = Weights()
    collect(session.table(SESSION_MODEL).table(MODEL_GRAPH), weights)
    return weights


def collect(graph: Table, weights: Weights) -> None:
    """Add the constants and nodes of a graph, then those of the graphs within its nodes."""
    for tensor in graph.tables(GRAPH_INITIALIZERS):
        kind = TYPES.get(tensor.number(TENSOR_TYPE))
        if kind is not None:
            values = np.frombuffer(tensor.vector(TENSOR_DATA, 1), kind)
            weights.tensors[tensor.text(TENSOR_NAME)] = values.reshape(tensor.dims(TENSOR_DIMS))
    for node in graph.tables(GRAPH_NODES):
        weights.inputs[node.text(NODE_NAME)] = node.texts(NODE_INPUTS)
        for attribute in node.tables(NODE_ATTRIBUTES):
            if attribute.has(ATTRIBUTE_GRAPH):
                collect(attribute.table(ATTRIBUTE_GRAPH), weights)


def whole(data: bytes, at: int) -> int:
    """The unsigned number of four bytes at `at`."""
    return int(struct.unpack_from("<I", data, at)[0])


class Table:
    """One table of a flatbuffer."""

    def __init__(self, data: bytes, at: int) -> None:
        self._data, self._at = data, at
        self._vtable = at - struct.unpack_from("<i", data, at)[0]
        self._size = struct.unpack_from("<H", data, self._vtable)[0]

    def has(self, number: int) -> bool:
        """Whether the field is there; an absent one has its default."""
        return self._place(number) != 0

    def number(self, number: int) -> int:
        """A field of four bytes; 0 where it is absent."""
        place = self._place(number)
        return whole(self._data, place) if place else 0

    def table(self, number: int) -> Table:
        """A field that is a table."""
        return Table(self._data, self._target(number))

    def tables(self, number: int) -> list[Table]:
        """A field that is a vector of tables."""
        return [Table(self._data, at) for at in self._targets(number)]

    def text(self, number: int) -> str:
        """A field that is a string."""
        return self._text(self._target(number)) if self.has(number) else ""

    def texts(self, number: int) -> list[str]:
        """A field that is a vector of strings."""
        return [self._text(at) for at in self._targets(number)]

    def dims(self, number: int) -> list[int]:
        """A field that is a vector of numbers of eight bytes."""
        return [int(side) for side in np.frombuffer(self.vector(number, 8), "<i8")]

    def vector(self, number: int, size: int) -> memoryview:
        """The bytes of a field that is a vector of elements of `size` bytes."""
        if not self.has(number):
            return memoryview(b"")
        at = self._target(number)
        return memoryview(self._data)[at + 4 : at + 4 + size * whole(self._data, at)]

    def _place(self, number: int) -> int:
        """Where the field lies, 0 for one that is absent."""
        entry = 4 + 2 * number
        if entry >= self._size:
            return 0
        offset = int(struct.unpack_from("<H", self._data, self._vtable + entry)[0])
        return self._at + offset if offset else 0

    def _target(self, number: int) -> int:
        place = self._place(number)
        if not place:
            raise ValueError(f"field {number} of the table at byte {self._at} is missing")
        return place + whole(self._data, place)

    def _targets(self, number: int) -> list[int]:
        if not self.has(number):
            return []
        at = self._target(number)
        places = range(at + 4, at + 4 + 4 * whole(self._data, at), 4)
        return [place + whole(self._data, place) for place in places]

    def _text(self, at: int) -> str:
        return self._data[at + 4 : at + 4 + whole(self._data, at)].decode()
