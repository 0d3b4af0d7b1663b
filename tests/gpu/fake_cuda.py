"""A stand-in for libcuda.so.1, with as many GPUs as a test likes."""

# ruff: noqa: N802 - the driver's own names

from __future__ import annotations

import ctypes
from typing import Any

from engines.gpu import MAJOR

H200 = ("NVIDIA H200", 9, 0)
L4 = ("NVIDIA L4", 8, 9)
OUT_OF_MEMORY = 2


class FakeCuda:
    """Fills what the callers point at, as the driver does; memory is kept by address."""

    def __init__(self, *gpus: tuple[str, int, int], memory_bytes: int = 2**20) -> None:
        self._gpus, self._free = gpus, memory_bytes
        self.memory: dict[int, bytes] = {}
        self.has_context = False

    def cuInit(self, _flags: int) -> int:
        return 0

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = len(self._gpus)
        return 0

    def cuDeviceGet(self, device: Any, ordinal: int) -> int:
        device._obj.value = ordinal
        return 0

    def cuDeviceGetName(self, name: Any, _size: int, device: Any) -> int:
        name.value = self._gpus[device.value][0].encode()
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: int, device: Any) -> int:
        value._obj.value = self._gpus[device.value][1 if attribute == MAJOR else 2]
        return 0

    def cuDevicePrimaryCtxRetain(self, context: Any, _device: Any) -> int:
        context._obj.value = 1
        return 0

    def cuCtxSetCurrent(self, _context: Any) -> int:
        self.has_context = True
        return 0

    def cuMemAlloc_v2(self, address: Any, size: Any) -> int:
        assert self.has_context
        if size.value > self._free:
            return OUT_OF_MEMORY
        self._free -= size.value
        address._obj.value = 4096 + len(self.memory)
        self.memory[address._obj.value] = bytes(size.value)
        return 0

    def cuMemcpyHtoD_v2(self, address: Any, source: Any, size: Any) -> int:
        assert len(self.memory[address.value]) == size.value
        self.memory[address.value] = ctypes.string_at(source.value, size.value)
        return 0
