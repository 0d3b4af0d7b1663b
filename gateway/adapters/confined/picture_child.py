"""The child process that decodes pictures: what each costs is bounded by what its header says."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from functions._kit.pictures import PictureInfo, decode, letterbox, probe, thumbnail
from gateway.adapters.confined import child
from gateway.adapters.confined.confine import limit_cpu, limit_memory
from gateway.adapters.confined.decoded import Decoded, Fitted
from gateway.adapters.confined.messages import AnyWork, Decode, Done, Fit, Probe, Shrink

HEADER_BYTES = 256 << 20
"""Memory beyond what this process has when it starts, for any header and for libraries' own use."""
HEADER_S = 10.0
"""Processor time for any header, which takes milliseconds."""
PIXEL_BYTES = 24
"""Memory more for each pixel of the header. Most formats are decoded by strips; AVIF, WebP and
interlaced files are held whole, at up to 16 bytes."""
PIXEL_S = 1e-6
"""Processor time more for each pixel; JPEG takes a hundredth of it, AVIF a tenth."""


class PictureChild:
    """Does what is asked, within its arena: a file in memory that the parent shares."""

    def __init__(self, arena: int) -> None:
        self._arena = arena
        self._limit(0)

    def do(self, work: AnyWork, on_progress: Callable[[float], None]) -> Done:
        """Any work on pictures."""
        del on_progress
        self._limit(0)
        match work:
            case Probe():
                return Done(probe(Path(work.source), max_pixels=work.max_pixels))
            case Decode():
                return self._decode(work)
            case Fit():
                return self._fit(work)
            case Shrink():
                self._allow(probe(Path(work.source), max_pixels=work.max_pixels))
                return Done(
                    thumbnail(
                        Path(work.source),
                        Path(work.into),
                        longest_side=work.longest_side,
                        max_pixels=work.max_pixels,
                    )
                )
            case _:
                raise TypeError(f"no work of this child: {work}")

    def _decode(self, work: Decode) -> Done:
        source, into = Path(work.source), Path(work.into)
        self._allow(probe(source, max_pixels=work.max_pixels))
        try:
            picture = decode(source, max_pixels=work.max_pixels, allocate=_InFile(into))
        except BaseException:
            into.unlink(missing_ok=True)
            raise
        return self._done(msgspec.msgpack.encode(Decoded.of(picture)))

    def _fit(self, work: Fit) -> Done:
        source = os.pread(self._arena, work.size, 0)
        self._allow(probe(source, max_pixels=work.max_pixels))
        box = letterbox(
            source,
            width=work.width,
            height=work.height,
            multiple_of=work.multiple_of,
            max_pixels=work.max_pixels,
        )
        height, width = box.pixels.shape[:2]
        fitted = Fitted(
            height=height, width=width, inner_width=box.inner_width, inner_height=box.inner_height
        )
        return self._done(box.pixels.data.cast("B"), fitted)

    def _done(self, data: bytes | memoryview, result: Any = None) -> Done:
        written = 0
        while written < len(data):
            written += os.pwrite(self._arena, data[written:], written)
        return Done(result, size=written)

    def _allow(self, info: PictureInfo) -> None:
        self._limit(info.width * info.height)

    def _limit(self, pixels: int) -> None:
        limit_memory(HEADER_BYTES + pixels * PIXEL_BYTES)
        limit_cpu(HEADER_S + pixels * PIXEL_S)


class _InFile:
    """Pixels, and alpha behind them, in a file of known room: a full disk is told at once."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        area = shape[0] * shape[1] * dtype.itemsize
        begin, size = (0, 3 * area) if len(shape) == 3 else (3 * area, area)
        with self._path.open("ab") as file:
            os.posix_fallocate(file.fileno(), begin, size)
        return np.memmap(self._path, dtype, mode="r+", offset=begin, shape=shape)


def main() -> None:
    """Until the parent has no more work."""
    with suppress(OSError):  # the parent has more to lose where the kernel runs out of memory
        Path("/proc/self/oom_score_adj").write_text("1000")
    child.run(PictureChild(int(sys.argv[2])).do)


if __name__ == "__main__":
    main()
