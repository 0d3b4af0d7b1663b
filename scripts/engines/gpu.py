"""The GPUs that CUDA shows, and memory on the first, by the driver's own library."""

from __future__ import annotations

import ctypes
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.errors import EngineError

MAJOR, MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR
NAME_BYTES = 256


@dataclass(frozen=True)
class Gpu:
    """What an engine is bound to, besides TensorRT's version."""

    name: str
    compute_capability: str
    """Like `9.0`."""

    @property
    def label(self) -> str:
        """For names of files: `nvidia-h200.sm90`."""
        words = re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")
        return f"{words}.sm{self.compute_capability.replace('.', '')}"

    def __str__(self) -> str:
        return f"{self.name} (compute capability {self.compute_capability})"


class Cuda:
    """CUDA's driver. Memory lies on the first GPU that CUDA_VISIBLE_DEVICES leaves."""

    def __init__(self, library: Any = None) -> None:
        """`library`: libcuda.so.1 or a stand-in for it. Raises EngineError where there is none."""
        try:
            self._library = library or ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            raise EngineError(
                f"there is no NVIDIA driver ({error}): run this where the GPU is, in a container"
                " with `--gpus` or compose's device reservation"
            ) from error
        self._call("cuInit", 0)
        self._context: ctypes.c_void_p | None = None

    def gpus(self) -> list[Gpu]:
        """All that are visible, in CUDA's order. Raises EngineError where none is."""
        count = ctypes.c_int()
        self._call("cuDeviceGetCount", ctypes.byref(count))
        if not count.value:
            raise EngineError("the NVIDIA driver shows no GPU: look at CUDA_VISIBLE_DEVICES")
        return [self._gpu(ordinal) for ordinal in range(count.value)]

    def allocate(self, size_bytes: int) -> int:
        """The address of so many bytes on the first GPU; they go with the process."""
        self._enter_context()
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size_bytes))
        return address.value

    def copy_in(self, address: int, array: NDArray[Any]) -> None:
        """Write the array's bytes to that address."""
        whole = np.ascontiguousarray(array)
        source = ctypes.c_void_p(whole.ctypes.data)
        size = ctypes.c_size_t(whole.nbytes)
        self._call("cuMemcpyHtoD_v2", ctypes.c_uint64(address), source, size)

    def _gpu(self, ordinal: int) -> Gpu:
        device = self._device(ordinal)
        name = ctypes.create_string_buffer(NAME_BYTES)
        self._call("cuDeviceGetName", name, NAME_BYTES, device)
        parts = []
        for attribute in (MAJOR, MINOR):
            value = ctypes.c_int()
            self._call("cuDeviceGetAttribute", ctypes.byref(value), attribute, device)
            parts.append(str(value.value))
        return Gpu(name.value.decode(), ".".join(parts))

    def _device(self, ordinal: int) -> ctypes.c_int:
        device = ctypes.c_int()
        self._call("cuDeviceGet", ctypes.byref(device), ordinal)
        return device

    def _enter_context(self) -> None:
        """The GPU's primary context, which is TensorRT's too."""
        if self._context is None:
            self._context = ctypes.c_void_p()
            self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), self._device(0))
            self._call("cuCtxSetCurrent", self._context)

    def _call(self, function: str, *arguments: Any) -> None:
        status = getattr(self._library, function)(*arguments)
        if status:
            raise EngineError(f"CUDA's driver failed: {function} returned {status}")
