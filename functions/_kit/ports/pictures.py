"""Pictures that strangers sent, decoded where none of them can harm this process."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # they ask for ports themselves
    from functions._kit.pictures import EncodedInfo, Letterboxed, Picture, PictureInfo


class PictureDecoder(Protocol):
    """Decodes files, a few at a time, frames and headers before whole photos.

    Every method raises `UnsupportedMedia`, `Unprocessable` and `JobFailed` as the function of its
    name in `functions._kit.pictures` does, and `JobFailed` for a file that ends the program that
    decodes it (`picture_crashed`), or takes more memory or time than its size warrants
    (`picture_too_costly`). When a call is cancelled, the work stops.
    """

    async def probe(self, source: Path, *, max_pixels: int) -> PictureInfo:
        """What the file is, from its header."""
        ...

    async def decode(self, source: Path, into: Path, *, max_pixels: int) -> Picture:
        """A whole picture; its arrays may be read-only and lie in the file `into`.

        Where it raises, `into` is not left behind.
        """
        ...

    async def letterbox(
        self, source: bytes, *, width: int, height: int, multiple_of: int, max_pixels: int
    ) -> Letterboxed:
        """The picture inside a rectangle, as detectors want it."""
        ...

    async def thumbnail(
        self, source: Path, into: Path, *, longest_side: int, max_pixels: int
    ) -> EncodedInfo:
        """A small JPEG of the picture, as the file `into`; where it raises, that is not left."""
        ...
