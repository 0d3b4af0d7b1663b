"""Golden answers for a version that brings none: its own ONNX answers a probe of its capability."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig

from gateway.models.golden import Golden, Tolerance

LONGEST_S = 60.0
"""onnx's evaluator takes minutes for a large network."""
SIDE = 32
# With the inputs and weights of each convolution rounded to bf16 (8 bits of precision) the
# published upscalers differ from FP32 by at most 3 levels and on average by 0.10 (animevideov3) to
# 0.29 (x4plus); OpenVINO on AVX-512 keeps all activations in bf16, and was about 0.75 on average
# from FP32 (48.7 dB) on a whole photo.
BF16 = Tolerance(max_abs=12, mean_abs=1.2)
"""Levels of 255 that bf16 may differ from FP32 by."""
F32_IN_16_BITS = Tolerance(max_abs=64, mean_abs=3)
"""Of 65,535, for FP32 added in another order: a fourth and a hundredth of one of 255 levels."""
IN_16_BITS = Tolerance(max_abs=514, mean_abs=128)
"""Of 65,535, for networks of others, which may compute in FP16: two and half a level of 255."""
ROWS = Tolerance(max_abs=[0.5, 0.5, 0.5, 0.5, 1e-3, 0])
"""x, y, width, height in pixels, score, class: what two engines in FP32 differ by."""
PROBABILITIES = Tolerance(max_abs=1e-3)
CLOSE = 0.01
"""Scores so close to each other, or to the least one, may change places in another engine."""


async def probe_answers(folder: Path, config: ModelConfig) -> Golden | str:
    """Golden answers of the version in `folder`, or why there are none."""
    model = folder / (config.default_model_filename or "model.onnx")
    if model.suffix != ".onnx" or not model.is_file():
        return f"it has no {model.stem}.onnx"
    probe = _probe(config)
    if probe is None:
        return "its config names no capability that a picture of noise could probe"
    inputs, tolerances = probe
    outputs = await _answered(model, inputs)
    if isinstance(outputs, str):
        return outputs
    if set(outputs) != {output.name for output in config.output}:
        return f"the outputs of {model.name} are not those of its config"
    if "detections" in outputs and not _is_clear(outputs["detections"], config):
        return "what it finds in noise is too close to its least score to hold others to"
    made = f"{model.name} as it was added, on a generated probe"
    return Golden(inputs=inputs, outputs=outputs, tolerances=tolerances, made=made)


def _probe(
    config: ModelConfig,
) -> tuple[dict[str, NDArray[Any]], dict[str, Tolerance]] | None:
    parameters = {key: value.string_value for key, value in config.parameters.items()}
    match parameters.get("capability") if config.input else None:
        case "upscale":
            is_deep = config.input[0].data_type == DataType.TYPE_FP32
            picture = probe_picture(SIDE, SIDE)[None]
            image = picture.astype(np.float32) * 257 if is_deep else picture
            return {"image": image}, {"upscaled": IN_16_BITS if is_deep else BF16}
        case "detect":
            height, width = _sides(config, parameters.get("multiple_of", ""))
            if not height:
                return None
            return {"image": probe_picture(height, width)[None]}, {"detections": ROWS}
        case "detect_speech":
            state = np.zeros((1, 1, 128), np.float32)
            windows = np.zeros((2, 576), np.float32)
            tolerances = dict.fromkeys(("speech_probs", "hn", "cn"), PROBABILITIES)
            return {"input": windows, "h": state, "c": state}, tolerances
        case _:
            return None


def _sides(config: ModelConfig, multiple_of: str) -> tuple[int, int]:
    """Height and width of a picture for a detector; 0 where its config does not say."""
    dims = list(config.input[0].dims)
    if len(dims) == 3 and min(dims) > 0:
        return dims[0], dims[1]
    side = 4 * int(multiple_of) if multiple_of.isdigit() else 0
    return side, side


async def _answered(model: Path, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]] | str:
    """The outputs, or why there are none within the time."""
    with tempfile.TemporaryDirectory() as scratch:
        sent, found = Path(scratch) / "inputs.npz", Path(scratch) / "outputs.npz"
        arrays: dict[str, Any] = dict(inputs)
        np.savez(sent, **arrays)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway.models.reference", model, sent, found),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(LONGEST_S):
                _, said = await process.communicate()
        except TimeoutError:
            return f"computing them takes longer than {LONGEST_S:.0f} s"
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        if process.returncode != 0:
            lines = said.decode(errors="replace").strip().splitlines() or ["it died"]
            return f"computing them failed: {lines[-1]}"
        with np.load(found, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}


def _is_clear(detections: NDArray[Any], config: ModelConfig) -> bool:
    """Whether no two scores lie so close that another engine may see them the other way round."""
    scores = detections[0, :, 4]
    least = float(config.parameters["min_score"].string_value or 0)
    steps = np.append(scores[scores > 0], least)
    return bool((steps[:-1] - steps[1:] > CLOSE).all())


def probe_picture(height: int, width: int) -> NDArray[np.uint8]:
    """Soft shapes with fine grain, height x width x 3; the same each time."""
    rows, columns = np.mgrid[0:height, 0:width]
    waves = [np.sin(rows / (3 + k) + k) + np.cos(columns / (5 + 2 * k) - k) for k in range(3)]
    grain = np.random.default_rng(0).normal(0, 6, (height, width, 3))
    return np.clip(128 + 50 * np.stack(waves, -1) + grain, 0, 255).astype(np.uint8)
