from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from functions._kit.errors import NereidError
from functions._kit.pictures import decode, encode, thumbnail

Put = Callable[[bytes], Path]


@pytest.mark.parametrize("name", ["jpeg", "png", "webp", "gif", "tiff", "avif"])
def test_damaged_bytes_end_in_a_picture_or_in_our_own_errors(
    small_files: dict[str, bytes], put: Put, tmp_path: Path, name: str
) -> None:
    rng = np.random.default_rng(7)
    original = np.frombuffer(small_files[name], np.uint8)
    codes = set()
    for _ in range(150):
        data = original.copy()
        places = rng.integers(0, data.size, rng.integers(1, 9))
        if rng.random() < 0.5:
            places %= min(data.size, 256)  # headers are where the traps are
        data[places] = rng.integers(0, 256, places.size)
        path = put(data.tobytes())
        try:
            picture = decode(path, max_pixels=4_000_000)
            encode(
                picture.pixels,
                picture.alpha,
                tmp_path / "out",
                format="jpeg",
                metadata=picture.metadata,
                grey=picture.grey,
            )
            thumbnail(path, tmp_path / "small", longest_side=16, max_pixels=4_000_000)
        except NereidError as error:
            codes.add(error.code)
    assert codes
    assert codes <= {
        "corrupt_picture",
        "unsupported_media_type",
        "picture_too_large",
        "animated_picture",
        "multiple_pages",
        "unsupported_pixel_format",
    }
