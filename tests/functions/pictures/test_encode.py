from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import pyvips
from numpy.typing import NDArray

from functions._kit.errors import RetryJob, Unprocessable
from functions._kit.pictures import WriteFormat, decode, encode, shrink

Photo = NDArray[np.uint8]
ALL: tuple[WriteFormat, ...] = ("jpeg", "png", "webp", "avif", "tiff")


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    error = float(np.mean((a.astype(float) - b) ** 2))
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


@pytest.mark.parametrize("name", ALL)
def test_each_format_holds_the_photo(photo: Photo, tmp_path: Path, name: WriteFormat) -> None:
    path = tmp_path / "out"
    info = encode(photo, None, path, format=name, quality=95)
    assert (info.width, info.height, info.size) == (256, 224, path.stat().st_size)
    back = decode(path)
    assert info.content_type == back.info.content_type == f"image/{name}"
    if name in ("png", "tiff"):
        assert np.array_equal(back.pixels, photo)
    else:
        assert psnr(back.pixels, photo) > 36


@pytest.mark.parametrize("name", ["jpeg", "webp", "avif"])
def test_quality_buys_likeness_with_bytes(photo: Photo, tmp_path: Path, name: WriteFormat) -> None:
    path = tmp_path / "out"
    sizes, likeness = [], []
    for quality in (1, 50, 90, 100):
        sizes.append(encode(photo, None, path, format=name, quality=quality).size)
        likeness.append(psnr(decode(path).pixels, photo))
    assert sizes == sorted(sizes)
    assert likeness == sorted(likeness)
    assert sizes[-1] > 4 * sizes[0]


@pytest.mark.parametrize("name", ["webp", "avif", "png", "tiff"])
def test_lossless_is_lossless(photo: Photo, tmp_path: Path, name: WriteFormat) -> None:
    encode(photo, None, tmp_path / "out", format=name, lossless=True)
    assert np.array_equal(decode(tmp_path / "out").pixels, photo)


@pytest.mark.parametrize("name", ["png", "webp", "avif", "tiff"])
def test_alpha_is_kept(photo: Photo, tmp_path: Path, name: WriteFormat) -> None:
    alpha = np.ascontiguousarray(photo[..., 1])
    encode(photo, alpha, tmp_path / "out", format=name, quality=95)
    back = decode(tmp_path / "out").alpha
    assert back is not None
    assert psnr(back, alpha) > 40 if name == "avif" else np.array_equal(back, alpha)


def test_jpeg_puts_transparency_on_white(photo: Photo, tmp_path: Path) -> None:
    alpha = np.zeros(photo.shape[:2], np.uint8)
    alpha[:, 128:] = 255
    encode(photo, alpha, tmp_path / "out", format="jpeg", quality=95)
    back = decode(tmp_path / "out").pixels
    assert back[:, :120].min() > 245
    assert psnr(back[:, 136:], photo[:, 136:]) > 36


@pytest.mark.parametrize("name", ALL)
def test_16_bits_stay_in_png_and_tiff_and_are_rounded_elsewhere(
    tmp_path: Path, name: WriteFormat
) -> None:
    ramp = np.linspace(0, 65_535, 64 * 64).round().astype(np.uint16).reshape(64, 64, 1)
    wide = np.repeat(ramp, 3, axis=2)
    encode(wide, None, tmp_path / "out", format=name, quality=100, lossless=name != "jpeg")
    back = decode(tmp_path / "out").pixels
    if name in ("png", "tiff"):
        assert np.array_equal(back, wide)
        return
    rounded = np.rint(wide / 257)
    assert back.dtype == np.uint8
    assert np.abs(back - rounded).max() <= (1 if name == "jpeg" else 0)


@pytest.mark.parametrize("name", ["jpeg", "png", "tiff"])
def test_grey_is_one_channel_in_the_file(photo: Photo, tmp_path: Path, name: WriteFormat) -> None:
    grey = np.repeat(photo[..., :1], 3, axis=2)
    encode(grey, None, tmp_path / "out", format=name, grey=True, quality=95)
    back = decode(tmp_path / "out")
    assert (back.info.bands, back.grey) == (1, True)
    assert psnr(back.pixels, grey) > 36


def test_sizes_beyond_a_format_are_refused_with_the_way_out(tmp_path: Path) -> None:
    for name, longest in (("jpeg", 65_500), ("webp", 16_383), ("avif", 16_384)):
        row = np.zeros((1, longest + 1, 3), np.uint8)
        with pytest.raises(Unprocessable, match="png or tiff") as caught:
            encode(row, None, tmp_path / "out", format=name, quality=1)  # type: ignore[arg-type]
        assert caught.value.code == "picture_too_large_for_format"
        if name != "avif":  # its encoder takes no single row
            info = encode(row[:, 1:], None, tmp_path / "out", format=name)  # type: ignore[arg-type]
            assert info.width == longest
    assert encode(np.zeros((1, 70_000, 3), np.uint8), None, tmp_path / "out", format="png").size


@pytest.mark.parametrize("quality", [0, 101])
def test_quality_out_of_range_is_refused(photo: Photo, tmp_path: Path, quality: int) -> None:
    with pytest.raises(Unprocessable) as caught:
        encode(photo, None, tmp_path / "out", format="jpeg", quality=quality)
    assert caught.value.code == "quality_out_of_range"


def test_a_full_or_missing_folder_is_not_the_pictures_fault(photo: Photo, tmp_path: Path) -> None:
    with pytest.raises(RetryJob) as caught:
        encode(photo, None, tmp_path / "none" / "out", format="jpeg")
    assert caught.value.code == "picture_not_written"


def test_a_size_is_reached_on_the_way_into_the_file(photo: Photo, tmp_path: Path) -> None:
    for width, height in ((192, 168), (191, 167), (1, 1), (256, 223)):
        info = encode(photo, None, tmp_path / "out", format="png", size=(width, height))
        back = decode(tmp_path / "out").pixels
        assert (info.width, info.height) == (width, height)
        assert back.shape == (height, width, 3)
        assert np.array_equal(back, shrink(photo, width, height))


def test_shrink_keeps_type_and_flat_colour(photo: Photo) -> None:
    flat = np.full((90, 70, 3), (10_000, 30_000, 65_535), np.uint16)
    small = shrink(flat, 31, 47)
    assert small.dtype == np.uint16
    assert small.shape == (47, 31, 3)
    assert np.array_equal(small, np.full_like(small, (10_000, 30_000, 65_535)))
    assert abs(float(shrink(photo, 64, 56).mean()) - float(photo.mean())) < 1
    assert shrink(photo, 256, 224).tobytes() == photo.tobytes()


def test_shrink_never_enlarges(photo: Photo) -> None:
    for size in ((257, 224), (256, 225), (0, 10)):
        with pytest.raises(Unprocessable) as caught:
            shrink(photo, *size)
        assert caught.value.code == "enlargement_refused"


def test_colour_of_transparent_pixels_does_not_bleed(tmp_path: Path) -> None:
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:, 32:] = (0, 255, 0)
    pixels[:, :32] = (255, 0, 0)
    alpha = np.zeros((64, 64), np.uint8)
    alpha[:, 33:] = 255
    encode(pixels, alpha, tmp_path / "out", format="png", size=(16, 16))
    back = decode(tmp_path / "out")
    assert back.alpha is not None
    assert back.pixels[back.alpha > 20][:, 0].max() == 0


@pytest.mark.parametrize("name", ["webp", "avif", "png"])
def test_a_grey_profile_gives_way_where_the_file_is_rgb(
    image: pyvips.Image, tmp_path: Path, name: WriteFormat, grey_profile: bytes
) -> None:
    source = image.colourspace("b-w").copy()
    source.set_type(pyvips.GValue.blob_type, "icc-profile-data", grey_profile)
    source.pngsave(str(tmp_path / "in"))
    picture = decode(tmp_path / "in")
    assert picture.metadata.icc == grey_profile
    encode(
        picture.pixels,
        None,
        tmp_path / "out",
        format=name,
        metadata=picture.metadata,
        grey=picture.grey,
        quality=95,
    )
    back = decode(tmp_path / "out")
    if name == "png":
        assert back.metadata.icc == grey_profile
        assert np.array_equal(back.pixels, picture.pixels)
    else:
        assert back.metadata.icc is None or back.metadata.icc[16:20] == b"RGB "
        # linear light of the grey profile, so sRGB values lie above it
        assert back.pixels.mean() > picture.pixels.mean() + 20
