"""The contract of `upscale`, as docs/models.md writes it down."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from functions._kit.capabilities.rules import broken, expect, number
from functions._kit.ports import Inference, ServedModel, TensorSpec

PROBE_SIDE = 48
"""Pixels of the probe pictures: more than any halo that is computed, and quickly done."""
LEVELS = {"8": ("UINT8", 255.0), "16": ("FP32", 65535.0)}
"""Type of the samples and the largest of them, by the parameter `bits`."""


def check_upscaler(model: ServedModel) -> None:
    """Hold the contract of `upscale` against Triton's configuration of the model.

    Raises `Unprocessable` (`model_contract`).
    """
    bits = model.parameters.get("bits", "")
    if bits not in LEVELS:
        raise broken(model, f"the parameter `bits` is {bits!r} and must be 8 or 16")
    picture = TensorSpec(LEVELS[bits][0], (-1, -1, 3))
    expect(model, "inputs", model.inputs, {"image": picture})
    expect(model, "outputs", model.outputs, {"upscaled": picture})
    least = {"scale": 1, "halo": 0, "max_tile_pixels": 1}
    for name, smallest in least.items():
        value = number(model, name)
        if value % 1 or value < smallest:
            raise broken(
                model,
                f"the parameter `{name}` is {value:g} and must be a whole number from {smallest}",
            )


async def probe_upscaler(inference: Inference, model: ServedModel) -> None:
    """Let the model enlarge an even picture and one of noise, and check the answers."""
    datatype, largest = LEVELS[model.parameters["bits"]]
    kind = np.uint8 if datatype == "UINT8" else np.float32
    noise = np.random.default_rng(0).integers(0, int(largest) + 1, (1, PROBE_SIDE, PROBE_SIDE, 3))
    scale = int(model.parameters["scale"])
    for picture in (np.full_like(noise, int(largest) // 2), noise):
        answer = (await inference.infer(model, {"image": picture.astype(kind)}))["upscaled"]
        due = (1, PROBE_SIDE * scale, PROBE_SIDE * scale, 3)
        if answer.shape != due or answer.dtype != kind:
            raise broken(
                model,
                f"it answers {answer.dtype} {list(answer.shape)} where {np.dtype(kind)}"
                f" {list(due)} is due",
            )
        if not ((answer >= 0) & (answer <= largest)).all():
            raise broken(model, f"it answers samples outside 0 to {largest:g}")


def compare_pictures(
    first: ServedModel,
    answer: Mapping[str, NDArray[Any]],
    second: ServedModel,
    other: Mapping[str, NDArray[Any]],
) -> float:
    """Root of the mean squared difference of the two tiles, in levels of 255."""
    ours, theirs = answer["upscaled"], other["upscaled"]
    if ours.shape != theirs.shape:
        raise broken(
            second,
            f"it answers {list(theirs.shape)} where {first.name} answers {list(ours.shape)}",
        )
    apart = ours.astype(np.float32) - theirs.astype(np.float32)
    largest = LEVELS[first.parameters["bits"]][1]
    return float(np.sqrt(np.mean(apart * apart)) * 255.0 / largest)
