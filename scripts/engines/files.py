"""Names of an engine's files, and writing them whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from engines.gpu import Gpu

SERVED = "model.plan"
"""What Triton loads: a copy of the engine that was built last or chosen."""
MANIFEST = "engine.json"
"""What is known of the served engine."""


def engine_stem(gpu: Gpu, tensorrt: str, precision: str) -> str:
    """Like `model.nvidia-h200.sm90.trt10.9.0.34.fp16`: its files end in .plan and .json."""
    return f"model.{gpu.label}.trt{tensorrt}.{precision}"


def timing_cache(folder: Path, gpu: Gpu, tensorrt: str) -> Path:
    """The timing cache for this GPU and TensorRT; all models share it."""
    return folder / f"{gpu.label}.trt{tensorrt}.timing"


def write_whole(file: Path, data: bytes) -> None:
    """Write through a file beside it, so that no one reads half."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    partial.write_bytes(data)
    partial.replace(file)
