"""What a model must be to serve a capability, whoever trained it."""

from __future__ import annotations

from functions._kit.errors import JobFailed
from functions._kit.ports import ServedModel, TensorSpec

DETECTIONS = 100
"""Rows of a detector's answer."""
ROW = ("x", "y", "width", "height", "score", "class")


def check_detector(model: ServedModel) -> None:
    """Raise `JobFailed` (`model_contract`) unless `model` can serve `detect`.

    Input `image`: UINT8 [height, width, 3], RGB, both sides fixed. Output `detections`: FP32
    [100, 6], rows of `ROW` in pixels of the input, best first, zeros after the last. Parameter
    `labels`: the classes' names, joined by commas.
    """
    image = model.inputs.get("image")
    if image is None or image.datatype != "UINT8" or not _is_picture(image):
        raise _broken(model, f"its input must be `image`, UINT8 [height, width, 3], not {image}")
    if set(model.inputs) != {"image"}:
        raise _broken(model, f"it must have no input but `image`, not {sorted(model.inputs)}")
    rows = model.outputs.get("detections")
    if rows != TensorSpec("FP32", (DETECTIONS, len(ROW))):
        raise _broken(
            model, f"its output must be `detections`, FP32 [{DETECTIONS}, {len(ROW)}], not {rows}"
        )
    labels = model.parameters.get("labels", "").split(",")
    if not all(labels) or len(set(labels)) != len(labels):
        raise _broken(model, "its parameter `labels` must name every class once, by commas")


def _is_picture(spec: TensorSpec) -> bool:
    return len(spec.shape) == 3 and spec.shape[2] == 3 and min(spec.shape) > 0


def _broken(model: ServedModel, rule: str) -> JobFailed:
    return JobFailed(
        "model_contract",
        f"the model {model.name!r} cannot serve `detect`: {rule}. See docs/models.md, or let "
        "`nereid models add --capability detect` wrap it",
    )
