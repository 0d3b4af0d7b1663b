"""The capability `detect`: which model serves it, and what its answer means."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

from numpy.typing import NDArray

from functions._kit.capabilities import (
    Canvas,
    canvas_of,
    check_detector,
    label_names,
    serve,
    serving,
)
from functions._kit.pictures import Letterboxed
from functions._kit.ports import Inference, KeyValue, ServedModel
from functions.alerts.contracts import Box

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Detector:
    """A served model that keeps the contract of `detect`."""

    model: ServedModel
    labels: tuple[str, ...]
    canvas: Canvas


@dataclass(frozen=True, slots=True)
class Detection:
    """An object in a picture."""

    label: str
    score: float
    box: Box


async def detector(inference: Inference, values: KeyValue) -> Detector:
    """The model that serves `detect` now, loaded.

    Raises `JobFailed` (`model_contract`) where it does not keep the capability's contract.
    """
    return _checked(_Identity(await serving("detect", inference, values)))


async def looking(
    inference: Inference, values: KeyValue, work: Callable[[Detector], Awaitable[T]], *, unit: str
) -> T:
    """Do `work` with the detector that serves the frame `unit`. Raises as `detector` does."""

    async def checked(model: ServedModel) -> T:
        return await work(_checked(_Identity(model)))

    return await serve("detect", inference, values, checked, unit=unit)


def detections(rows: NDArray[Any], picture: Letterboxed, by: Detector) -> Iterator[Detection]:
    """The rows (x, y, width, height, score, class) of one picture, best first.

    Boxes come in pixels of the model's input and go as fractions of the picture, cut at its
    edges. Rows of score 0 are padding.
    """
    for x, y, width, height, score, number in rows.tolist():
        if score <= 0:
            return
        left, right = (_within(v / picture.inner_width) for v in (x, x + width))
        top, bottom = (_within(v / picture.inner_height) for v in (y, y + height))
        if left < right and top < bottom:
            box = Box(x=left, y=top, width=_digits(right - left), height=_digits(bottom - top))
            yield Detection(by.labels[int(number)], _digits(score), box)


@dataclass(frozen=True, slots=True)
class _Identity:
    """A served model as a key: by all that it says of itself."""

    model: ServedModel

    def __hash__(self) -> int:
        return hash((self.model.name, self.model.version))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and other.model == self.model


@lru_cache(maxsize=8)
def _checked(served: _Identity) -> Detector:
    model = served.model
    check_detector(model)
    return Detector(model, tuple(label_names(model)), canvas_of(model))


def _within(fraction: float) -> float:
    return _digits(min(1.0, max(0.0, fraction)))


def _digits(value: float) -> float:
    return round(value, 4)
