"""Calibration for INT8: TensorRT sees pictures and learns the range of each tensor."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from numpy.typing import NDArray

from engines.errors import EngineError
from engines.files import write_whole


class Memory(Protocol):
    """What a calibrator needs of CUDA; `engines.gpu.Cuda` is it."""

    def allocate(self, size_bytes: int) -> int:
        """The address of so many bytes on the GPU."""

    def copy_in(self, address: int, array: NDArray[Any]) -> None:
        """Write the array's bytes to that address."""


@dataclass(frozen=True)
class Pictures:
    """What is shown to TensorRT: batches of `shape` to the input `tensor`."""

    tensor: str
    shape: tuple[int, ...]
    batches: Iterator[NDArray[Any]]


def cache_name(onnx_sha256: str, files: list[Path], tensorrt: str) -> str:
    """The file that keeps what was learned; another graph, picture or TensorRT learns anew."""
    seen = hashlib.sha256(onnx_sha256.encode())
    for file in files:
        seen.update(hashlib.sha256(file.read_bytes()).digest())
    return f"calibration.{seen.hexdigest()[:16]}.trt{tensorrt}"


class Feed:
    """Brings one batch after the other onto the GPU, and keeps what was learned.

    TensorRT prints what a calibrator raises and goes on with what it has learned by then, so the
    error is kept in `failure`, which must be asked after the build.
    """

    def __init__(self, memory: Memory, pictures: Pictures, cache: Path) -> None:
        self.failure: Exception | None = None
        self._memory, self._pictures, self._cache = memory, pictures, cache
        self._address: int | None = None

    def next(self, names: list[str]) -> list[int] | None:
        """The addresses of the next batch; None behind the last, and after a failure."""
        try:
            return self._next(names)
        except Exception as error:  # noqa: BLE001 - kept for who asks
            self.failure = error
            return None

    def recall(self) -> bytes | None:
        """What was learned before."""
        return self._cache.read_bytes() if self._cache.exists() else None

    def keep(self, data: bytes) -> None:
        """Keep what was learned, unless it is from a part of the pictures."""
        if self.failure is None:
            write_whole(self._cache, data)

    def _next(self, names: list[str]) -> list[int] | None:
        if list(names) != [self._pictures.tensor]:
            raise EngineError(
                f"calibration has pictures for `{self._pictures.tensor}`, TensorRT asks for {names}"
            )
        batch = next(self._pictures.batches, None)
        if batch is None:
            return None
        if batch.shape != self._pictures.shape:
            raise EngineError(f"a batch is {batch.shape} and must be {self._pictures.shape}")
        if self._address is None:
            self._address = self._memory.allocate(batch.nbytes)
        self._memory.copy_in(self._address, batch)
        return [self._address]


def make_calibrator(trt: ModuleType, pictures: Pictures, feed: Feed) -> Any:
    """A calibrator for `IBuilderConfig.int8_calibrator`; it has the feed's `failure`."""

    class Calibrator(trt.IInt8EntropyCalibrator2):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            trt.IInt8EntropyCalibrator2.__init__(self)

        @property
        def failure(self) -> Exception | None:
            return feed.failure

        def get_batch_size(self) -> int:
            return pictures.shape[0]

        def get_batch(self, names: list[str]) -> list[int] | None:
            return feed.next(names)

        def read_calibration_cache(self) -> bytes | None:
            return feed.recall()

        def write_calibration_cache(self, cache: Any) -> None:
            feed.keep(bytes(cache))

    return Calibrator()
