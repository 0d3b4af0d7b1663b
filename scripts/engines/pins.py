"""Which layers of a network compute in FP32, whatever the rest does.

What stands before the first convolution and behind the last: normalisation, boxes, NMS, clipping
and rounding. They cost little, and FP16 would lose a quarter of a pixel at 416 and halves at 255.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any


def pin_ends(trt: ModuleType, network: Any) -> int:
    """Pin them; return how many. TensorRT must be told to obey."""
    layers = [network.get_layer(number) for number in range(network.num_layers)]
    inner = _between_convolutions(trt, layers)
    # A constant or a cast says its own type, and what only tells shapes has whole numbers.
    own_type = {trt.LayerType.CONSTANT, trt.LayerType.CAST, trt.LayerType.SHAPE}
    pinned = 0
    for number, layer in enumerate(layers):
        outputs = [layer.get_output(place) for place in range(layer.num_outputs)]
        floats = [place for place, out in enumerate(outputs) if out.dtype == trt.float32]
        if number in inner or layer.type in own_type or not floats:
            continue
        layer.precision = trt.float32
        for place in floats:
            layer.set_output_type(place, trt.float32)
        pinned += 1
    return pinned


def _between_convolutions(trt: ModuleType, layers: list[Any]) -> set[int]:
    """Numbers of the layers with a convolution on both sides, and of the convolutions."""
    convolutions = {
        number for number, layer in enumerate(layers) if layer.type == trt.LayerType.CONVOLUTION
    }
    maker = {
        layer.get_output(place).name: number
        for number, layer in enumerate(layers)
        for place in range(layer.num_outputs)
    }
    sources: list[set[int]] = []
    for layer in layers:
        tensors = [layer.get_input(place) for place in range(layer.num_inputs)]
        sources.append({maker[t.name] for t in tensors if t is not None and t.name in maker})
    readers: list[set[int]] = [set() for _ in layers]
    for number, before in enumerate(sources):
        for source in before:
            readers[source].add(number)
    return _reached(convolutions, readers) & _reached(convolutions, sources)


def _reached(starts: set[int], edges: list[set[int]]) -> set[int]:
    found, waiting = set(starts), list(starts)
    while waiting:
        fresh = edges[waiting.pop()] - found
        found |= fresh
        waiting += fresh
    return found
