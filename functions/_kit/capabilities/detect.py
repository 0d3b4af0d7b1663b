"""The contract of `detect`, as docs/models.md writes it down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from functions._kit.capabilities.rules import broken, number, only, shown
from functions._kit.ports import Inference, ServedModel, TensorSpec

MAX_DETECTIONS = 100
"""Rows of a detector's answer to one picture."""
GREY = 114
"""Beside a letterboxed picture; YOLO made it customary."""
# Corners are computed in FP32 from pixels of up to some thousands.
ROUNDING = 0.01


def check_detector(model: ServedModel) -> None:
    """Hold the contract of `detect` against Triton's configuration of the model.

    Raises `Unprocessable` (`model_contract`) that says what is wrong and how to mend it.
    """
    canvas_of(model)
    detections = only(model, "output", model.outputs, "detections")
    if detections != TensorSpec("FP32", (MAX_DETECTIONS, 6)):
        raise broken(
            model,
            f"the output `detections` is {shown(detections)} and must be FP32 [{MAX_DETECTIONS},"
            " 6]: rows of x, y, width, height, score, class",
        )
    label_names(model)
    least = number(model, "min_score")
    if not 0 <= least <= 1:
        raise broken(model, f"the parameter `min_score` is {least:g} and must be from 0 to 1")


@dataclass(frozen=True, slots=True)
class Canvas:
    """The pictures that a detector takes: exactly `width` x `height` pixels.

    Or, where `multiple_of` is not 0, any whose sides are multiples of it and no longer than these.
    """

    width: int
    height: int
    multiple_of: int = 0


def canvas_of(model: ServedModel) -> Canvas:
    """What the model's input takes. Raises `Unprocessable` (`model_contract`)."""
    image = only(model, "input", model.inputs, "image")
    if image.datatype == "UINT8" and len(image.shape) == 3 and image.shape[-1] == 3:
        height, width, _ = image.shape
        if min(height, width) > 0:
            return Canvas(width, height)
        if height == width == -1:
            longest, multiple_of = (number(model, name) for name in ("longest_side", "multiple_of"))
            whole = multiple_of >= 1 and multiple_of % 1 == 0
            if not (whole and longest > 0 and longest % multiple_of == 0):
                raise broken(
                    model,
                    f"the parameter `longest_side` is {longest:g} and must be a multiple of"
                    f" `multiple_of`, a whole number, which is {multiple_of:g}",
                )
            return Canvas(int(longest), int(longest), int(multiple_of))
    raise broken(
        model,
        f"the input `image` is {shown(image)} and must be UINT8 [height, width, 3] with height"
        " and width both fixed, or both -1 and the parameters `longest_side` and `multiple_of`,"
        " and max_batch_size of 1 or more: let `nereid models add --capability detect` wrap the"
        " network",
    )


def label_names(model: ServedModel) -> list[str]:
    """The names of the model's classes, in order. Raises `Unprocessable` (`model_contract`)."""
    names = model.parameters.get("labels", "").split(",")
    if not all(name and name == name.strip() for name in names):
        raise broken(
            model,
            "the parameter `labels` must hold the names of all classes, in order, joined by commas"
            " without spaces around them: the lines of labels.txt",
        )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise broken(
            model,
            f"the parameter `labels` names {', '.join(twice)} more than once: a rule could not tell"
            " them apart, so give each class a name of its own in labels.txt",
        )
    return names


def check_rows(model: ServedModel, detections: NDArray[Any]) -> None:
    """Hold the contract against one answer, N x 100 x 6. Raises `Unprocessable` (`model_contract`).

    Rows by falling score, then rows of zeros; scores up to 1, boxes inside the picture.
    """
    canvas = canvas_of(model)
    if detections.shape[1:] != (MAX_DETECTIONS, 6) or detections.dtype != np.float32:
        raise broken(model, f"it answers {detections.dtype} {list(detections.shape)}")
    score, label = detections[..., 4], detections[..., 5]
    found = score > 0
    wrong = {
        "a value is not a number": not np.isfinite(detections).all(),
        "scores do not fall from row to row": (np.diff(score, axis=1) > 0).any(),
        "a score is above 1": (score > 1).any(),
        "a row without a score is not all zeros": detections[~found].any(),
        "a class has no label": (label[found] >= len(label_names(model))).any()
        or (label != np.round(label)).any()
        or (label < 0).any(),
        "a box lies outside the picture": (
            (detections[..., :4] < -ROUNDING).any()
            or (detections[..., 0] + detections[..., 2] > canvas.width + ROUNDING).any()
            or (detections[..., 1] + detections[..., 3] > canvas.height + ROUNDING).any()
        ),
    }
    for what, is_so in wrong.items():
        if is_so:
            raise broken(model, f"{what} in the answer to a test picture: see docs/models.md")


async def probe_detector(inference: Inference, model: ServedModel) -> None:
    """Let the model look at the probe pictures, and check its answers."""
    canvas = canvas_of(model)
    for picture in probe_pictures(canvas.height, canvas.width):
        answer = await inference.infer(model, {"image": picture})
        check_rows(model, answer["detections"])


def probe_pictures(height: int, width: int) -> list[NDArray[np.uint8]]:
    """An empty picture and one of noise, each 1 x height x width x 3; the same each time."""
    noise = np.random.default_rng(0).integers(0, 256, (1, height, width, 3), np.uint8)
    return [np.full_like(noise, GREY), noise]


SURE = 0.35
"""Scores from which on both detectors of a comparison shall agree: far enough above their least
score that an object near it is no difference."""
SAME_BOX = 0.5
"""Overlap (intersection over union) of one object's boxes, as COCO's AP50 has it."""


def compare_detections(
    first: ServedModel,
    answer: Mapping[str, NDArray[Any]],
    second: ServedModel,
    other: Mapping[str, NDArray[Any]],
) -> float:
    """Share of the sure objects of either answer for which the other has no such box; 0 to 1."""
    del first
    if answer["detections"].shape != other["detections"].shape:
        raise broken(second, f"it answers {list(other['detections'].shape)}")
    unmatched = total = 0
    pairs = zip(answer["detections"], other["detections"], strict=True)
    for ours, theirs in pairs:
        found = [rows[rows[:, 4] > 0] for rows in (ours, theirs)]
        for one, counterpart in (found, found[::-1]):
            sure = one[one[:, 4] >= SURE]
            total += len(sure)
            unmatched += sum(not _has(counterpart, row) for row in sure)
    return unmatched / total if total else 0.0


def _has(rows: NDArray[Any], wanted: NDArray[Any]) -> bool:
    """Whether one of the rows is a box of the same class in the same place."""
    same = rows[rows[:, 5] == wanted[5]]
    corners = np.minimum(same[:, :2] + same[:, 2:4], wanted[:2] + wanted[2:4])
    sides = np.clip(corners - np.maximum(same[:, :2], wanted[:2]), 0, None)
    common = sides[:, 0] * sides[:, 1]
    either = same[:, 2] * same[:, 3] + wanted[2] * wanted[3] - common
    return bool((common >= SAME_BOX * either).any())
