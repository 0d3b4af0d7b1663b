"""engine.json: what an engine was built from, where and how."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engines.errors import EngineError
from engines.files import MANIFEST, SERVED, write_whole
from engines.gpu import Gpu
from engines.profiles import Shapes, profile_of
from engines.repository import Model, sha256


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """One engine. `profile`: of each input its smallest, optimal and largest shape."""

    model: str
    version: str
    onnx_sha256: str
    plan: str
    plan_sha256: str
    gpu: str
    compute_capability: str
    tensorrt: str
    precision: str
    profile: dict[str, list[list[int]]]

    def write(self, file: Path) -> None:
        """As JSON, whole or not at all."""
        text = json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"
        write_whole(file, text.encode())


def read(file: Path) -> Manifest:
    """Raises EngineError for a file that is no manifest."""
    try:
        return Manifest(**json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise EngineError(
            f"{file} is no engine's manifest ({error}): build the engine anew"
        ) from error


def listed(profile: dict[str, Shapes]) -> dict[str, list[list[int]]]:
    """A profile as a manifest keeps it."""
    return {
        name: [list(shapes.minimum), list(shapes.optimum), list(shapes.maximum)]
        for name, shapes in profile.items()
    }


def objections(model: Model, folder: Path, gpus: list[Gpu], tensorrt: str) -> list[str]:
    """Why the engine in a version's folder must not be served here; empty where it may."""
    what = f"{model.name} version {folder.name}"
    again = f"build it here with `build_engines.py build {model.name}`"
    if not (folder / MANIFEST).exists() or not (folder / SERVED).exists():
        return [f"{what} has no TensorRT engine: {again}"]
    try:
        manifest = read(folder / MANIFEST)
    except EngineError as error:
        return [str(error)]
    found = [
        f"{what} was built on {Gpu(manifest.gpu, manifest.compute_capability)}, and GPU {number}"
        f" here is {gpu}: {again}, or show Triton other GPUs"
        for number, gpu in enumerate(gpus)
        if (gpu.name, gpu.compute_capability) != (manifest.gpu, manifest.compute_capability)
    ]
    onnx = folder / "model.onnx"
    wanted: dict[str, tuple[Any, Any]] = {
        "with TensorRT {}, and TensorRT {} serves here": (manifest.tensorrt, tensorrt),
        "of version {}, and lies in folder {}": (manifest.version, folder.name),
        "of the model {}, and lies in the folder of {}": (manifest.model, model.name),
        "for the shapes {}, and configs/tensorrt.pbtxt says {}": (
            manifest.profile,
            listed(profile_of(model)),
        ),
        "in {}, and configs/tensorrt.pbtxt says {}": (
            model.parameters.get("precision")
            if manifest.precision == "int8"
            else manifest.precision,
            model.parameters.get("precision"),
        ),
        "as the file with SHA-256 {}, and model.plan has {}": (
            manifest.plan_sha256,
            sha256(folder / SERVED),
        ),
    }
    if onnx.exists():
        wanted["from an ONNX with SHA-256 {}, and model.onnx has {}"] = (
            manifest.onnx_sha256,
            sha256(onnx),
        )
    found += [
        f"{what} was built {text.format(built, here)}: {again}"
        for text, (built, here) in wanted.items()
        if built != here
    ]
    return found
