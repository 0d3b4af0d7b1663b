"""Compute the golden answers of the published models: MODEL/1/golden.npz, see docs/models.md.

`just build-goldens`. Real photos and real speech go through ONNX Runtime in FP32, so that neither
OpenVINO nor a GPU is its own judge.
"""

from __future__ import annotations

import sys
import wave
from importlib import util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime
import pyvips
from numpy.typing import NDArray

from gateway.models.golden import Golden, Tolerance, write_golden
from gateway.models.probing import BF16, F32_IN_16_BITS, PROBABILITIES, ROWS

ROOT = Path(__file__).resolve().parent.parent
REPOSITORY = ROOT / "model_repository"
PHOTO = ROOT / "tests" / "data" / "coffee.png"
FRAME = ROOT / "tests" / "data" / "detection" / "coffee.jpg"
RATE, WINDOW, CONTEXT = 16_000, 512, 64
MADE = "ONNX Runtime, FP32"

LOGARITHM = Tolerance(max_abs=1e-2)


def main() -> int:
    """Write every golden.npz; return the exit status."""
    for model in sorted(REPOSITORY.glob("realesr*")):
        write(model.name, upscaler(model.name))
    write("nanodet-g-416", detector("nanodet-g-416"))
    write("silero-vad", speech_detector("silero-vad"))
    write("moonshine-tiny-en", transcriber("moonshine-tiny-en"))
    return 0


def write(model: str, golden: Golden) -> None:
    """Put it beside the model's files."""
    file = REPOSITORY / model / "1" / "golden.npz"
    file.write_bytes(write_golden(golden))
    print(f"{model}: {file.stat().st_size} bytes")


def upscaler(model: str) -> Golden:
    """The cup's rim, 32 x 32; 16 bits, which pack less well, 24 x 24."""
    is_deep = model.endswith("-16bit")
    side = 24 if is_deep else 32
    image = pyvips.Image.new_from_file(str(PHOTO)).crop(280, 90, side, side).numpy()
    # 257 maps the levels of 8 bits onto those of 16.
    pixels = image[None].astype(np.float32) * 257 if is_deep else image[None]
    tolerance = F32_IN_16_BITS if is_deep else BF16
    return answered(model, {"image": pixels}, {"upscaled": tolerance})


def detector(model: str) -> Golden:
    """The whole frame, small: a cup on its saucer."""
    image = pyvips.Image.thumbnail(str(FRAME), 192, height=128, size="force").numpy()
    return answered(model, {"image": image[None]}, {"detections": ROWS})


def speech_detector(model: str) -> Golden:
    """A second of a voice, and of the silence before it."""
    samples = speech()[: 32 * WINDOW]
    whole = np.concatenate([np.zeros(CONTEXT), samples]).astype(np.float32) / 2**15
    windows = np.lib.stride_tricks.sliding_window_view(whole, CONTEXT + WINDOW)[::WINDOW]
    state = np.zeros((1, 1, 128), np.float32)
    inputs: dict[str, NDArray[Any]] = {"input": np.ascontiguousarray(windows)}
    inputs |= {"h": state, "c": state}
    return answered(model, inputs, dict.fromkeys(("speech_probs", "hn", "cn"), PROBABILITIES))


def transcriber(model: str) -> Golden:
    """Two and a half seconds of a voice, "No matter, try again", token by token."""
    decoding = module("triton/backends/speech/decoding.py")
    sound = speech()[None, 3 * RATE : int(5.5 * RATE)]
    rows = decoding.Rows(decoding.Network(REPOSITORY / model / "1"), [sound.size])
    rows.encode(0, sound)
    while rows.live:
        rows.step()
    result = rows.result(0)
    print(f"{model}: {result.text!r}")
    outputs = {
        "text": np.array([[result.text.encode()]], object),
        "tokens": np.array([result.tokens], np.int32),
        "log_probability": np.array([[result.log_probability]], np.float32),
    }
    return Golden(
        inputs={"audio": sound},
        outputs=outputs,
        tolerances={"log_probability": LOGARITHM},
        made=MADE,
    )


def answered(
    model: str, inputs: dict[str, NDArray[Any]], tolerances: dict[str, Tolerance]
) -> Golden:
    """The inputs with what the model's ONNX makes of them."""
    session = onnxruntime.InferenceSession(str(REPOSITORY / model / "1" / "model.onnx"))
    names = [output.name for output in session.get_outputs()]
    outputs = dict(zip(names, session.run(names, inputs), strict=True))
    return Golden(inputs=inputs, outputs=outputs, tolerances=tolerances, made=MADE)


def speech() -> NDArray[np.int16]:
    """Beckett's words, 16 kHz."""
    build = module("scripts/build_models.py")
    with wave.open(str(build.fetch_speech_weights() / build.MOONSHINE / "beckett.wav")) as file:
        return np.frombuffer(file.readframes(file.getnframes()), np.int16)


def module(path: str) -> ModuleType:
    """A file that no package holds, as a module."""
    name = f"script_{Path(path).stem}"
    spec = util.spec_from_file_location(name, ROOT / path)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(path)
    found = util.module_from_spec(spec)
    sys.modules[name] = found  # dataclasses look for their module
    spec.loader.exec_module(found)
    return found


if __name__ == "__main__":
    sys.exit(main())
