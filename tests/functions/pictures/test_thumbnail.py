from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import pyvips

from functions._kit.errors import JobFailed
from functions._kit.pictures import WriteFormat, decode, thumbnail

Put = Callable[[bytes], Path]


@pytest.mark.parametrize("side", [17, 64, 200])
def test_it_fits_the_square_and_looks_like_the_picture(
    small_files: dict[str, bytes], image: pyvips.Image, put: Put, tmp_path: Path, side: int
) -> None:
    wanted = image.thumbnail_image(side, height=side).numpy().astype(int)
    for suffix in (".jpg", ".webp", ".png", ".tif"):
        path = put(bytes(image.write_to_buffer(suffix)))
        info = thumbnail(path, tmp_path / "small", longest_side=side, quality=95)
        got = decode(tmp_path / "small").pixels
        assert (info.width, info.height) == (got.shape[1], got.shape[0])
        assert info.width == side
        assert got.shape == wanted.shape
        assert np.abs(got - wanted).mean() < 6
    assert small_files


def test_it_never_enlarges(image: pyvips.Image, put: Put, tmp_path: Path) -> None:
    info = thumbnail(put(bytes(image.pngsave_buffer())), tmp_path / "small", longest_side=900)
    assert (info.width, info.height) == (256, 224)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_it_is_upright(image: pyvips.Image, put: Put, tmp_path: Path, orientation: int) -> None:
    stored = image.copy()
    stored.set_type(pyvips.GValue.gint_type, "orientation", orientation)
    path = put(bytes(stored.jpegsave_buffer(Q=95)))
    thumbnail(path, tmp_path / "small", longest_side=64, format="png")
    whole = pyvips.Image.new_from_array(decode(path).pixels).copy(interpretation="srgb")
    wanted = whole.thumbnail_image(64, height=64).numpy().astype(int)
    got = decode(tmp_path / "small").pixels
    assert got.shape == wanted.shape
    assert np.abs(got - wanted).mean() < 4


@pytest.mark.parametrize(("name", "kept"), [("png", True), ("webp", True), ("jpeg", False)])
def test_transparency_stays_where_it_can_and_is_white_in_jpeg(
    image: pyvips.Image, put: Put, tmp_path: Path, name: WriteFormat, *, kept: bool
) -> None:
    clear = image.bandjoin(0).copy(interpretation="srgb")
    path = put(bytes(clear.pngsave_buffer()))
    thumbnail(path, tmp_path / "small", longest_side=32, format=name)
    back = decode(tmp_path / "small")
    assert (back.alpha is not None) == kept
    if kept:
        assert back.alpha is not None
        assert back.alpha.max() == 0
    else:
        assert back.pixels.min() > 250


def test_wide_profiles_cmyk_and_16_bits_become_bare_8_bit_srgb(
    image: pyvips.Image, put: Put, tmp_path: Path
) -> None:
    wanted = image.thumbnail_image(64).numpy().astype(int)
    for source in (
        image.icc_transform("p3", input_profile="srgb").pngsave_buffer(),
        image.icc_transform("cmyk", input_profile="srgb").tiffsave_buffer(),
        image.colourspace("rgb16").pngsave_buffer(),
    ):
        thumbnail(put(bytes(source)), tmp_path / "small", longest_side=64, format="png")
        back = decode(tmp_path / "small")
        assert back.pixels.dtype == np.uint8
        assert back.metadata.icc is None
        assert np.abs(back.pixels - wanted).mean() < 6


def test_a_truncated_picture_is_damage(
    small_files: dict[str, bytes], put: Put, tmp_path: Path
) -> None:
    for name in ("jpeg", "png"):
        path = put(small_files[name][:-300])
        with pytest.raises(JobFailed) as caught:
            thumbnail(path, tmp_path / "small", longest_side=20)
        assert caught.value.code == "corrupt_picture"
