"""`PictureDecoder` over child processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import numpy as np

from functions._kit.errors import Unavailable
from functions._kit.pictures import (
    EncodedInfo,
    Letterboxed,
    Picture,
    PictureInfo,
    crashed,
    too_costly,
)
from gateway.adapters.background import end
from gateway.adapters.confined.decoded import Decoded, Fitted
from gateway.adapters.confined.messages import Decode, Done, Fit, Probe, Shrink
from gateway.adapters.confined.pool import Children, remove
from gateway.adapters.confined.process import ChildProcess, Kind

PICTURES = Kind(
    name="decoder",
    module="gateway.adapters.confined.picture_child",
    # the kernel counts the time that a picture takes; this is for a child that does not even run
    open_s=300.0,
    silence_s=300.0,
)
METADATA_BYTES = 32 << 20
"""The most that a picture may carry beside its pixels."""


class ProcessPictures:
    """Decodes in `at_once` children, of which whole photos leave one to frames and headers."""

    def __init__(self, at_once: int, kind: Kind = PICTURES) -> None:
        self._places = asyncio.Semaphore(at_once)
        self._long_places = asyncio.Semaphore(at_once - 1)
        self._children = Children(kind, crashed=crashed, costly=too_costly)

    async def probe(self, source: Path, *, max_pixels: int) -> PictureInfo:
        """See `PictureDecoder.probe`."""
        work = Probe(source=str(source), max_pixels=max_pixels)
        async with self._places:
            return await self._children.do(work, _info)

    async def decode(self, source: Path, into: Path, *, max_pixels: int) -> Picture:
        """See `PictureDecoder.decode`."""
        work = Decode(source=str(source), into=str(into), max_pixels=max_pixels)
        async with self._long_places, self._places:
            try:
                decoded = await self._children.do(work, _decoded)
            except BaseException:
                remove(into)  # what a child that died has left
                raise
        return decoded.picture(into)

    async def letterbox(
        self, source: bytes, *, width: int, height: int, multiple_of: int, max_pixels: int
    ) -> Letterboxed:
        """See `PictureDecoder.letterbox`."""
        work = Fit(
            size=len(source),
            width=width,
            height=height,
            multiple_of=multiple_of,
            max_pixels=max_pixels,
        )
        async with self._places:
            return await self._children.do(work, _fitted, data=source)

    async def thumbnail(
        self, source: Path, into: Path, *, longest_side: int, max_pixels: int
    ) -> EncodedInfo:
        """See `PictureDecoder.thumbnail`."""
        work = Shrink(
            source=str(source), into=str(into), longest_side=longest_side, max_pixels=max_pixels
        )
        async with self._long_places, self._places:
            try:
                return await self._children.do(work, _written)
            except BaseException:
                remove(into)
                raise

    @property
    def pids(self) -> frozenset[int]:
        """Process ids of the children that live now."""
        return self._children.pids

    async def warm(self) -> None:
        """Start a child before it is needed; the first need tells where it does not start."""
        with contextlib.suppress(Unavailable):
            async with self._places:
                await self._children.warm()

    async def close(self) -> None:
        """End all children; what is decoded now fails."""
        await self._children.close()


@asynccontextmanager
async def open_pictures(
    at_once: int | None = None, *, warm: bool = True, kind: Kind = PICTURES
) -> AsyncIterator[ProcessPictures]:
    """As many children as there are cores, and two at least; none is left at the end.

    `warm` starts the first at once: else the first photo would wait for it.
    """
    pictures = ProcessPictures(max(2, at_once or os.cpu_count() or 1), kind)
    warming = [asyncio.create_task(pictures.warm())] if warm else []
    try:
        yield pictures
    finally:
        await end(*warming)
        await pictures.close()


def _info(child: ChildProcess, done: Done) -> PictureInfo:
    del child
    return msgspec.convert(done.result, PictureInfo)


def _written(child: ChildProcess, done: Done) -> EncodedInfo:
    del child
    return msgspec.convert(done.result, EncodedInfo)


def _decoded(child: ChildProcess, done: Done) -> Decoded:
    if done.size > METADATA_BYTES:
        raise too_costly("metadata")
    return msgspec.msgpack.decode(child.take(done.size), type=Decoded)


def _fitted(child: ChildProcess, done: Done) -> Letterboxed:
    fitted = msgspec.convert(done.result, Fitted)
    pixels = np.frombuffer(child.take(done.size), np.uint8)
    return Letterboxed(
        pixels.reshape(fitted.height, fitted.width, 3), fitted.inner_width, fitted.inner_height
    )
