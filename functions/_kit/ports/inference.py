"""Models by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

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
    capability: str = ""
    """Which one it is asked for just now; nothing of the model itself."""


class Inference(Protocol):
    """Models by name: NVIDIA Triton."""

    async def model(self, name: str, version: str | None = None) -> ServedModel:
        """One version of a model, loading the model first where it is not.

        Without `version` the oldest that is loaded: a newer one serves nobody before it is
        switched to. Raises `NotFound` (codes `model_not_found`, `model_version_not_found`), and
        `JobFailed` (`model_not_loadable`) where the server cannot or must not load it.
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

    def report(self, model: ServedModel, problem: str | None = None) -> None:
        """Tell how a candidate did with a job: well, or with this problem.

        The job is done all the same, by the active model.
        """
        ...

    async def model_names(self) -> frozenset[str]:
        """All models of the server's repository, loaded or not."""
        ...

    async def healthy(self) -> bool:
        """Whether the server is ready for requests now."""
        ...


VersionState = Literal["unloaded", "loading", "ready", "unloading", "unavailable"]


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """What the server says of one version of a model."""

    model: str
    version: str
    """Empty for a model of which no version was ever loaded."""
    state: VersionState
    reason: str = ""
    """Why it is unavailable, in the server's own words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionStatistics:
    """What one version has done since it was loaded; times are sums over its requests."""

    requests: int = 0
    failures: int = 0
    executions: int = 0
    """Batches; fewer than `requests` where the server has joined some."""
    queue_s: float = 0.0
    compute_s: float = 0.0
    """Of the requests that succeeded, input and output handling included."""


class ModelServer(Protocol):
    """Which models the server has loaded, and changing that: NVIDIA Triton, explicit control."""

    async def versions(self) -> list[ModelVersion]:
        """Every model of the repository, by name and number of version."""
        ...

    async def describe(self, name: str, version: str) -> ServedModel:
        """A version that is loaded, whether the repository has it or not.

        Raises `NotFound` (`model_version_not_found`).
        """
        ...

    async def statistics(self) -> dict[tuple[str, str], VersionStatistics]:
        """By name and version, of the versions that are ready."""
        ...

    async def load(
        self,
        name: str,
        *,
        config: str | None = None,
        files: Mapping[str, bytes] | None = None,
    ) -> None:
        """Load the versions that the repository's config.pbtxt names, and unload all others.

        A version that is loaded and stays is not touched, and serves on if the load fails. With
        `config` (JSON) and `files` (content by path in the model's folder) the model comes from
        them and not from the repository. Raises `JobFailed` (`model_not_loadable`) with the
        server's own reason.
        """
        ...

    async def unload(self, name: str) -> None:
        """Unload every version; requests under way are finished. An unloaded one is no error."""
        ...
