"""`python -m gateway.models.reference MODEL.onnx INPUTS.npz OUTPUTS.npz`: one request, answered.

By ONNX Runtime where it is installed, else by onnx's own evaluator, which computes each operator in
numpy. A process of its own, for the evaluator cannot be stopped otherwise.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
from onnx.reference import ReferenceEvaluator


def main(model: Path, inputs: Path, outputs: Path) -> None:
    """Answer the arrays of one file in another, by the names of the network's outputs."""
    with np.load(inputs, allow_pickle=False) as archive:
        feeds = {name: archive[name] for name in archive.files}
    names, answers = answered(model, feeds)
    arrays: dict[str, Any] = dict(zip(names, answers, strict=True))
    np.savez(outputs, **arrays)


def answered(model: Path, feeds: dict[str, Any]) -> tuple[list[str], list[Any]]:
    """Names and arrays of the outputs."""
    if importlib.util.find_spec("onnxruntime") is None:
        evaluator = ReferenceEvaluator(str(model))
        return list(evaluator.output_names), list(evaluator.run(None, feeds))
    import onnxruntime  # noqa: PLC0415 - of the extra `export`

    session = onnxruntime.InferenceSession(str(model))
    return [output.name for output in session.get_outputs()], session.run(None, feeds)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
