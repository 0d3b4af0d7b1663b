"""Triton in memory: its models enlarge by repeating pixels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from functions._kit.errors import JobFailed, NotFound, Unavailable
from functions._kit.ports import ServedModel, TensorSpec

DEFAULT_MODELS: dict[str, dict[str, str]] = {
    name + suffix: {
        "scale": scale,
        "halo": halo,
        "max_tile_pixels": "400000",
        "bits": bits,
        "streams": "2",
    }
    for name, scale, halo in (
        ("realesr-animevideov3-x2", "2", "19"),
        ("realesr-animevideov3-x3", "3", "19"),
        ("realesr-animevideov3-x4", "4", "18"),
        ("realesrgan-x4plus", "4", "64"),
        ("realesrgan-x4plus-anime", "4", "40"),
    )
    for suffix, bits in (("", "8"), ("-16bit", "16"))
}


class FakeInference:
    """Answers as `TritonInference` does. `sick` makes every call fail; `requests` counts."""

    def __init__(self, models: Mapping[str, dict[str, str]] | None = None) -> None:
        """`models` maps names to the parameters of their config.pbtxt."""
        self._models = dict(DEFAULT_MODELS if models is None else models)
        self.sick = False
        self.requests = 0

    async def model(self, name: str) -> ServedModel:
        """The model, always version 1. Raises `NotFound` (`model_not_found`)."""
        self._check_health()
        if name not in self._models:
            raise NotFound("model_not_found", f"model: there is no model {name!r}.", field="model")
        parameters = self._models[name]
        picture = TensorSpec("FP32" if parameters.get("bits") == "16" else "UINT8", (-1, -1, 3))
        return ServedModel(name, "1", parameters, {"image": picture}, {"upscaled": picture})

    async def infer(
        self, model: ServedModel, inputs: dict[str, NDArray[Any]], *, priority: int = 2
    ) -> dict[str, NDArray[Any]]:
        """Enlarge `image` (N x H x W x 3). Raises `JobFailed` (`inference_refused`)."""
        self._check_health()
        parameters = (await self.model(model.name)).parameters
        if set(inputs) != {"image"} or priority not in (1, 2, 3):
            raise _refused(f"inputs {sorted(inputs)} at priority {priority}")
        image = inputs["image"]
        kind = np.uint8 if parameters["bits"] == "8" else np.float32
        if image.dtype != kind or image.ndim != 4 or image.shape[3] != 3:
            raise _refused(f"an image of type {image.dtype} and shape {image.shape}")
        if image.shape[1] * image.shape[2] > int(parameters["max_tile_pixels"]):
            raise _refused(f"a tile of shape {image.shape} above max_tile_pixels")
        self.requests += 1
        scale = int(parameters["scale"])
        return {"upscaled": image.repeat(scale, axis=1).repeat(scale, axis=2)}

    async def model_names(self) -> frozenset[str]:
        """All models."""
        self._check_health()
        return frozenset(self._models)

    async def healthy(self) -> bool:
        """Whether it is not `sick`."""
        return not self.sick

    def _check_health(self) -> None:
        if self.sick:
            raise Unavailable("triton", "Triton: the fake is sick")


def _refused(what: str) -> JobFailed:
    return JobFailed("inference_refused", f"Triton refused the request: {what}")
