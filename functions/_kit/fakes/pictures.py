"""A decoder in this process: the same functions, in a thread, with no wall around them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from functions._kit.pictures import (
    EncodedInfo,
    Letterboxed,
    Picture,
    PictureInfo,
    decode,
    letterbox,
    probe,
    thumbnail,
    too_costly,
)

T = TypeVar("T")


class FakePictureDecoder:
    """Answers as `ProcessPictures` does, but for what ends a process."""

    async def probe(self, source: Path, *, max_pixels: int) -> PictureInfo:
        """See `PictureDecoder.probe`."""
        return await _called(probe, source, max_pixels=max_pixels)

    async def decode(self, source: Path, into: Path, *, max_pixels: int) -> Picture:
        """See `PictureDecoder.decode`."""
        del into
        return await _called(decode, source, max_pixels=max_pixels)

    async def letterbox(
        self, source: bytes, *, width: int, height: int, multiple_of: int, max_pixels: int
    ) -> Letterboxed:
        """See `PictureDecoder.letterbox`."""
        return await _called(
            letterbox,
            source,
            width=width,
            height=height,
            multiple_of=multiple_of,
            max_pixels=max_pixels,
        )

    async def thumbnail(
        self, source: Path, into: Path, *, longest_side: int, max_pixels: int
    ) -> EncodedInfo:
        """See `PictureDecoder.thumbnail`."""
        try:
            return await _called(
                thumbnail, source, into, longest_side=longest_side, max_pixels=max_pixels
            )
        except BaseException:
            await asyncio.to_thread(into.unlink, missing_ok=True)
            raise


async def _called(work: Callable[..., T], *arguments: Any, **options: Any) -> T:
    try:
        return await asyncio.to_thread(work, *arguments, **options)
    except MemoryError as error:
        raise too_costly("memory") from error
