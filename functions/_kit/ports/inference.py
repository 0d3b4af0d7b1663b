"""Models by name."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor as Triton's configuration writes it: `UINT8` and the like; -1 is any length.

    `shape` is without the batch.
    """

    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A loaded model, as its Triton configuration describes it."""

    name: str
    version: str
    parameters: dict[str, str]
    inputs: dict[str, TensorSpec] = field(default_factory=dict)
    outputs: dict[str, TensorSpec] = field(default_factory=dict)


class Inference(Protocol):
    """Models by name: NVIDIA Triton."""

    async def model(self, name: str) -> ServedModel:
        """The model's newest loaded version, loading it first where the server lets us.

        Raises `NotFound` (code `model_not_found`) where the repository has no such model.
        """
        ...

    async def infer(
        self, model: ServedModel, inputs: dict[str, NDArray[Any]], *, priority: int = 2
    ) -> dict[str, NDArray[Any]]:
        """Run one request. `priority` 1 is served before 2 before 3.

        Arrays go in and come out as the model's configuration says. Raises `JobFailed`
        (code `inference_refused`) where the server refuses the request itself.
        """
        ...

    async def model_names(self) -> frozenset[str]:
        """All models of the server's repository, loaded or not."""
        ...

    async def healthy(self) -> bool:
        """Whether the server is ready for requests now."""
        ...
