"""The shapes that an engine takes, from its configuration: TensorRT's optimisation profile."""

from __future__ import annotations

from dataclasses import dataclass

from engines.errors import EngineError
from engines.repository import Model

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Shapes:
    """Of one input, the batch first: the smallest, the one to be fastest with, the largest."""

    minimum: Shape
    optimum: Shape
    maximum: Shape

    def holds(self, shape: Shape) -> bool:
        """Whether an engine with this profile takes the shape."""
        return len(shape) == len(self.minimum) and all(
            low <= side <= high
            for low, side, high in zip(self.minimum, shape, self.maximum, strict=True)
        )


def profile_of(model: Model) -> dict[str, Shapes]:
    """The profile of every input. Raises EngineError where the configuration does not say it.

    Sides of pictures reach from 1 to `max_tile_side` or, of a detector, from `multiple_of` to
    `longest_side`; batches from 1 to `max_batch_size`. The optimum is what the first warm-up sends,
    in the smallest preferred batch.
    """
    config = model.config
    warmup = config.model_warmup[0].inputs if config.model_warmup else {}
    profile = {}
    for tensor in config.input:
        dims = tuple(int(side) for side in tensor.dims)
        low, high = _sides(model, tensor.name, dims)
        if tensor.name not in warmup:
            raise EngineError(
                f"{model.name}: the first model_warmup must hold the input `{tensor.name}`: the"
                " engine is made fastest for that shape"
            )
        best = tuple(int(side) for side in warmup[tensor.name].dims)
        batches: tuple[Shape, Shape, Shape] = ((), (), ())
        if config.max_batch_size:
            preferred = min(config.dynamic_batching.preferred_batch_size, default=1)
            batches = ((1,), (preferred,), (int(config.max_batch_size),))
        shapes = Shapes(batches[0] + low, batches[1] + best, batches[2] + high)
        if not shapes.holds(shapes.optimum):
            raise EngineError(
                f"{model.name}: the first model_warmup sends {list(shapes.optimum)} to"
                f" `{tensor.name}`, outside of {list(shapes.minimum)} to {list(shapes.maximum)}"
            )
        profile[tensor.name] = shapes
    return profile


def _sides(model: Model, name: str, dims: Shape) -> tuple[Shape, Shape]:
    """The smallest and largest dims, without the batch."""
    if -1 not in dims:
        return dims, dims
    if len(dims) != 3 or dims[:2] != (-1, -1) or dims[2] == -1:
        raise EngineError(
            f"{model.name}: the input `{name}` is {list(dims)}; only pictures [-1, -1, channels]"
            " may be of any size"
        )
    if "longest_side" in model.parameters:
        step, side = (_number(model, key) for key in ("multiple_of", "longest_side"))
    else:
        step, side = 1, _number(model, "max_tile_side")
    return (step, step, dims[2]), (side, side, dims[2])


def _number(model: Model, key: str) -> int:
    value = model.parameters.get(key, "")
    if not value.isdecimal() or int(value) < 1:
        raise EngineError(
            f"{model.name}: the parameter `{key}` of configs/tensorrt.pbtxt is {value!r} and must"
            " be a whole number of pixels: it bounds the engine's profile"
        )
    return int(value)
