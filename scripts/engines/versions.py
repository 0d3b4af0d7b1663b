"""triton/versions.toml: what matches what."""

from __future__ import annotations

import ctypes
import importlib
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

from engines.errors import EngineError

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "triton" / "versions.toml"


def versions() -> dict[str, Any]:
    """The whole file."""
    return tomllib.loads(FILE.read_text(encoding="utf-8"))


def import_tensorrt() -> ModuleType:
    """TensorRT's Python bindings, of the version that is written down. Raises EngineError."""
    wanted = versions()["container"]["tensorrt"]
    way_out = "run this in the image of triton/Dockerfile (`just build-engines` does)"
    try:
        trt = importlib.import_module("tensorrt_bindings")
    except ImportError as error:
        raise EngineError(f"TensorRT cannot be imported ({error}): {way_out}") from error
    if trt.__version__ != wanted:
        raise EngineError(
            f"TensorRT {trt.__version__} runs here, triton/versions.toml names {wanted}: {way_out}"
        )
    library = library_version()
    if library != wanted.rpartition(".")[0]:
        raise EngineError(
            f"the library of TensorRT is {library}, triton/versions.toml names {wanted}: {way_out}"
        )
    return trt


def library_version() -> str:
    """Of libnvinfer, which came with the image, where the bindings came as a wheel."""
    try:
        number = int(ctypes.CDLL("libnvinfer.so.10").getInferLibVersion())
    except OSError as error:
        raise EngineError(f"TensorRT's library cannot be loaded: {error}") from error
    return f"{number // 10_000}.{number // 100 % 100}.{number % 100}"
