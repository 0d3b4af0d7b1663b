"""What the contracts of all capabilities are written with."""

from __future__ import annotations

from collections.abc import Mapping

from functions._kit.errors import Unprocessable
from functions._kit.ports import ServedModel, TensorSpec


def only(model: ServedModel, kind: str, tensors: Mapping[str, TensorSpec], name: str) -> TensorSpec:
    """The one tensor that the model must have. Raises `Unprocessable` (`model_contract`)."""
    if set(tensors) != {name}:
        names = ", ".join(f"`{found}`" for found in sorted(tensors)) or "none"
        raise broken(model, f"it must have one {kind}, `{name}`, and has {names}")
    return tensors[name]


def expect(
    model: ServedModel, kind: str, tensors: Mapping[str, TensorSpec], wanted: dict[str, TensorSpec]
) -> None:
    """Raise `Unprocessable` (`model_contract`) unless the tensors are exactly those `wanted`."""
    if dict(tensors) != wanted:
        raise broken(model, f"its {kind} are {_list(tensors)} and must be {_list(wanted)}")


def number(model: ServedModel, name: str) -> float:
    """A parameter that is a number. Raises `Unprocessable` (`model_contract`)."""
    text = model.parameters.get(name, "")
    try:
        return float(text)
    except ValueError:
        raise broken(model, f"the parameter `{name}` is {text!r}, which is no number") from None


def shown(tensor: TensorSpec) -> str:
    """A tensor as a sentence names it."""
    return f"{tensor.datatype} {list(tensor.shape)}"


def broken(model: ServedModel, message: str) -> Unprocessable:
    """The error of a model that does not keep its contract."""
    return Unprocessable("model_contract", f"The model {model.name!r}: {message}.", field="model")


def _list(tensors: Mapping[str, TensorSpec]) -> str:
    return ", ".join(f"`{name}` {shown(tensors[name])}" for name in sorted(tensors)) or "none"
