"""The bare engine of `just bench alerts`: OpenVINO alone, on frames that are decoded already."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import openvino

from functions._kit.capabilities import DEFAULT_MODELS
from functions._kit.pictures import letterbox

SIDE = 416
MODEL = (
    Path(__file__).parents[2] / "model_repository" / DEFAULT_MODELS["detect"] / "1" / "model.onnx"
)


def main(folder: Path, seconds: float = 8.0) -> None:
    """Say frames a second for each line: of the rectangles that Nereid sends, and of squares.

    The pictures are 416 pixels wide; a square is what a model of one size would be given.
    """
    files = sorted(folder.glob("frame-*.jpg"))
    compiled = {}
    pixels: dict[str, list[Any]] = {}
    streams: dict[str, int] = {}
    for name, multiple_of in (("rectangle", 32), ("square", 0)):
        pixels[name] = [
            letterbox(file.read_bytes(), width=SIDE, height=SIDE, multiple_of=multiple_of).pixels[
                None
            ]
            for file in files
        ]
        rates = {
            count: rate(compile_for(pixels[name][0].shape, count), pixels[name], 2.0)
            for count in (1, 2, 4)
        }
        streams[name] = max(rates, key=rates.__getitem__)
        compiled[name] = compile_for(pixels[name][0].shape, streams[name])
    facts = {
        "engine": "OpenVINO",
        "version": openvino.__version__,
        "streams": streams,
        "shapes": {name: list(found[0].shape) for name, found in pixels.items()},
    }
    print(json.dumps(facts), flush=True)
    for line in sys.stdin:
        name = line.strip()
        print(rate(compiled[name], pixels[name], seconds), flush=True)


def compile_for(shape: Any, streams: int) -> Any:
    """The served network for one shape."""
    core = openvino.Core()
    model = core.read_model(MODEL)
    model.reshape(list(shape))
    settings = {"NUM_STREAMS": streams, "PERFORMANCE_HINT": "THROUGHPUT"}
    return core.compile_model(model, "CPU", settings)


def rate(compiled: Any, pixels: list[Any], seconds: float) -> float:
    """Pictures a second."""
    waiting = openvino.AsyncInferQueue(compiled)
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        waiting.start_async([pixels[count % len(pixels)]])
        count += 1
    waiting.wait_all()
    return count / (time.perf_counter() - began)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
