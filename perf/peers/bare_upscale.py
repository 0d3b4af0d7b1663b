"""The bare engine of `just bench upscale`: OpenVINO alone on a whole photo."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import openvino
import pyvips

MODEL = (
    Path(__file__).parents[2] / "model_repository" / "realesr-animevideov3-x2" / "1" / "model.onnx"
)


def main(photo: Path) -> None:
    """The bare engine: OpenVINO on the whole photo, decoded before and not encoded after."""
    core = openvino.Core()
    fast = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    model = core.read_model(MODEL)
    image = pyvips.Image.new_from_file(str(photo)).numpy()[None]
    model.reshape(image.shape)
    precision = "bf16" if fast else "f32"
    compiled = core.compile_model(
        model, "CPU", {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision}
    )
    request = compiled.create_infer_request()
    facts = {"engine": "OpenVINO", "version": openvino.__version__, "precision": precision}
    print(json.dumps(facts), flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        request.infer([image])
        print(time.perf_counter() - began, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
