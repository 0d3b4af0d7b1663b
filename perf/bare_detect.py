"""The bare engine of `just bench alerts`: OpenVINO alone, on frames that are decoded already."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import openvino

from functions._kit.pictures import letterbox
from functions.alerts.contracts import DETECTOR

MODEL = Path(__file__).parents[1] / "model_repository" / DETECTOR / "1" / "model.onnx"


def main(folder: Path, seconds: float = 10.0) -> None:
    """The bare engine: OpenVINO on decoded frames, each core a stream; says frames a second."""
    pixels = [
        letterbox(file.read_bytes(), width=416, height=416).pixels[None]
        for file in sorted(folder.glob("frame-*.jpg"))
    ]
    core = openvino.Core()
    model = core.read_model(MODEL)
    model.reshape(pixels[0].shape)
    best = {"rate": 0.0, "streams": 0}
    for streams in (1, 2, 4):
        settings = {"NUM_STREAMS": streams, "PERFORMANCE_HINT": "THROUGHPUT"}
        rate = _rate(core.compile_model(model, "CPU", settings), pixels, seconds / 4)
        best = max(best, {"rate": rate, "streams": streams}, key=lambda found: found["rate"])
    compiled = core.compile_model(
        model, "CPU", {"NUM_STREAMS": best["streams"], "PERFORMANCE_HINT": "THROUGHPUT"}
    )
    facts = {"engine": "OpenVINO", "version": openvino.__version__, "streams": best["streams"]}
    print(json.dumps(facts), flush=True)
    for _ in sys.stdin:
        print(_rate(compiled, pixels, seconds), flush=True)


def _rate(compiled: Any, pixels: list[Any], seconds: float) -> float:
    waiting = openvino.AsyncInferQueue(compiled)
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        waiting.start_async([pixels[count % len(pixels)]])
        count += 1
    waiting.wait_all()
    return count / (time.perf_counter() - began)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
