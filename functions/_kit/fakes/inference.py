"""Triton in memory: its models enlarge by repeating pixels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from functions._kit.errors import JobFailed, NotFound, Unavailable
from functions._kit.ports import ModelVersion, ServedModel, TensorSpec, VersionStatistics

Change = Callable[[dict[str, NDArray[Any]]], dict[str, NDArray[Any]]]

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
    """Answers as `TritonInference` does, as the ports `Inference` and `ModelServer`.

    `sick` makes every call fail; `requests` counts; `reports` holds what `report` was told.
    `on_disk` are the versions that the repository's config names, by model; `broken` those that
    cannot be loaded, with the reason; `answers` changes what a version answers, or raises.
    """

    def __init__(self, models: Mapping[str, dict[str, str]] | None = None) -> None:
        """`models` maps names to the parameters of their config.pbtxt; each has version 1."""
        self._models = dict(DEFAULT_MODELS if models is None else models)
        self.on_disk: dict[str, tuple[str, ...]] = {}
        self.broken: dict[tuple[str, str], str] = {}
        self.answers: dict[tuple[str, str], Change] = {}
        self.loaded: set[tuple[str, str]] = set()
        self.served: Counter[tuple[str, str]] = Counter()
        self.reports: list[tuple[ServedModel, str | None]] = []
        self.sick = False
        self.requests = 0

    async def model(self, name: str, version: str | None = None) -> ServedModel:
        """See `Inference.model`."""
        self._check_health()
        if name not in await self.model_names():
            raise NotFound("model_not_found", f"model: there is no model {name!r}.", field="model")
        ready = self._ready(name)
        if not ready or version not in (None, *ready):
            await self.load(name)
            ready = self._ready(name)
        wanted = version if version is not None else min(ready, key=int, default="")
        if wanted not in ready:
            raise NotFound(
                "model_version_not_found",
                f"version: {name} has no version {wanted} that is loaded",
                field="version",
            )
        return self.described(name, wanted)

    async def describe(self, name: str, version: str) -> ServedModel:
        """See `ModelServer.describe`."""
        self._check_health()
        if (name, version) not in self.loaded:
            raise NotFound("model_version_not_found", f"version: no {version}", field="version")
        return self.described(name, version)

    def described(self, name: str, version: str) -> ServedModel:
        """What `model` says of it; tests of other models override this."""
        parameters = self._models[name]
        picture = TensorSpec("FP32" if parameters.get("bits") == "16" else "UINT8", (-1, -1, 3))
        return ServedModel(name, version, parameters, {"image": picture}, {"upscaled": picture})

    def report(self, model: ServedModel, problem: str | None = None) -> None:
        """See `Inference.report`."""
        self.reports.append((model, problem))

    async def versions(self) -> list[ModelVersion]:
        """See `ModelServer.versions`."""
        self._check_health()
        found = [
            ModelVersion(name, version, "ready" if (name, version) in self.loaded else "unloaded")
            for name in await self.model_names()
            for version in self._ready(name) or [""]
        ]
        found += [ModelVersion(*key, "unavailable", why) for key, why in self.broken.items()]
        return sorted(found, key=lambda v: (v.model, int(v.version or 0)))

    async def statistics(self) -> dict[tuple[str, str], VersionStatistics]:
        """See `ModelServer.statistics`."""
        self._check_health()
        return {key: VersionStatistics(requests=self.served[key]) for key in self.loaded}

    async def load(
        self,
        name: str,
        *,
        config: str | None = None,
        files: Mapping[str, bytes] | None = None,
    ) -> None:
        """See `ModelServer.load`; what `config` and `files` say is not looked at."""
        del config, files
        self._check_health()
        wanted = self.on_disk.get(name, ("1",))
        for version in wanted:
            if reason := self.broken.get((name, version)):
                raise JobFailed("model_not_loadable", f"Triton cannot load {name!r}: {reason}")
        self.loaded = {key for key in self.loaded if key[0] != name}
        self.loaded |= {(name, version) for version in wanted}

    async def unload(self, name: str) -> None:
        """See `ModelServer.unload`."""
        self._check_health()
        self.loaded = {key for key in self.loaded if key[0] != name}

    def _ready(self, name: str) -> list[str]:
        return sorted((v for model, v in self.loaded if model == name), key=int)

    async def infer(
        self, model: ServedModel, inputs: dict[str, NDArray[Any]], *, priority: int = 2
    ) -> dict[str, NDArray[Any]]:
        """Answer, as `answers` changes it. Raises `JobFailed` (`inference_refused`)."""
        self._check_health()
        if (model.name, model.version) not in self.loaded:
            await self.model(model.name, model.version)
        answer = await self.answer(model, inputs, priority)
        change = self.answers.get((model.name, model.version))
        self.served[model.name, model.version] += 1
        return answer if change is None else change(answer)

    async def answer(
        self, model: ServedModel, inputs: dict[str, NDArray[Any]], priority: int
    ) -> dict[str, NDArray[Any]]:
        """Enlarge `image` (N x H x W x 3)."""
        parameters = model.parameters
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
