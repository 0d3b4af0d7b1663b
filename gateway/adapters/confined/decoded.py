"""What a child says of a picture that it has decoded, beside the pixels themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from functions._kit.pictures import Metadata, Picture, PictureInfo


class Fitted(msgspec.Struct, frozen=True, kw_only=True):
    """Of a picture in a rectangle; its pixels lie in the arena."""

    height: int
    width: int
    inner_width: int
    inner_height: int


class Decoded(msgspec.Struct, frozen=True, kw_only=True):
    """Of a whole picture; its pixels, and alpha behind them, lie in a file."""

    height: int
    width: int
    dtype: Literal["uint8", "uint16"]
    alpha: bool
    grey: bool
    had_alpha: bool
    metadata: Metadata
    info: PictureInfo

    @classmethod
    def of(cls, picture: Picture) -> Decoded:
        """All of `picture` but its arrays."""
        height, width = picture.pixels.shape[:2]
        return cls(
            height=height,
            width=width,
            dtype="uint16" if picture.pixels.dtype == np.uint16 else "uint8",
            alpha=picture.alpha is not None,
            grey=picture.grey,
            had_alpha=picture.had_alpha,
            metadata=picture.metadata,
            info=picture.info,
        )

    def picture(self, path: Path) -> Picture:
        """With the arrays of the file at `path`, which are paged in as they are read."""
        shape, dtype = (self.height, self.width), np.dtype(self.dtype)
        behind = self.height * self.width * 3 * dtype.itemsize
        alpha = None
        if self.alpha:
            alpha = np.memmap(path, dtype, mode="r", offset=behind, shape=shape)
        return Picture(
            pixels=np.memmap(path, dtype, mode="r", shape=(*shape, 3)),
            alpha=alpha,
            grey=self.grey,
            had_alpha=self.had_alpha,
            metadata=self.metadata,
            info=self.info,
        )
