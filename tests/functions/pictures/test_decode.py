from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import pyvips
from numpy.typing import NDArray

from functions._kit.errors import JobFailed, NereidError
from functions._kit.pictures import decode

Put = Callable[[bytes], Path]
Photo = NDArray[np.uint8]


def test_png_and_tiff_give_the_very_pixels(image: pyvips.Image, photo: Photo, put: Put) -> None:
    for data in (image.pngsave_buffer(), image.tiffsave_buffer(compression="lzw")):
        picture = decode(put(bytes(data)))
        assert picture.pixels.dtype == np.uint8
        assert picture.pixels.flags.c_contiguous
        assert picture.pixels.flags.writeable
        assert np.array_equal(picture.pixels, photo)
        assert (picture.grey, picture.had_alpha, picture.alpha) == (False, False, None)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("with_alpha", ["", "alpha"])
def test_each_orientation_comes_out_upright(
    image: pyvips.Image, photo: Photo, put: Put, orientation: int, with_alpha: str
) -> None:
    # what a viewer does to show a file of this orientation, undone, gives the file
    shown = image.bandjoin(image[0]) if with_alpha else image
    turn_back = {
        1: shown,
        2: shown.fliphor(),
        3: shown.rot180(),
        4: shown.flipver(),
        5: shown.rot90().fliphor(),
        6: shown.rot270(),
        7: shown.rot270().fliphor(),
        8: shown.rot90(),
    }
    stored = turn_back[orientation].copy()
    stored.set_type(pyvips.GValue.gint_type, "orientation", orientation)
    data = bytes(stored.pngsave_buffer())
    viewer = pyvips.Image.pngload_buffer(data).autorot()
    assert (viewer - shown).abs().max() == 0
    picture = decode(put(data))
    assert picture.info.orientation == orientation
    assert np.array_equal(picture.pixels, photo)
    if with_alpha:
        assert picture.alpha is not None
        assert np.array_equal(picture.alpha, photo[..., 0])


def test_16_bits_stay_16_bits(photo: Photo, put: Put) -> None:
    wide = photo.astype(np.uint16) * 257 - (photo > 0)
    image = pyvips.Image.new_from_array(wide).copy(interpretation="rgb16")
    for data in (image.pngsave_buffer(), image.tiffsave_buffer()):
        picture = decode(put(bytes(data)))
        assert picture.pixels.dtype == np.uint16
        assert np.array_equal(picture.pixels, wide)
        assert picture.info.bit_depth == 16


def test_white_of_a_10_bit_avif_is_white(put: Put) -> None:
    white = (pyvips.Image.black(32, 32, bands=3) + 65_535).cast("ushort")
    data = white.copy(interpretation="rgb16").heifsave_buffer(
        compression="av1", bitdepth=10, lossless=True
    )
    picture = decode(put(bytes(data)))
    assert picture.info.bit_depth == 10
    assert picture.pixels.min() == 65_535


def test_grey_spreads_over_three_channels(image: pyvips.Image, put: Put) -> None:
    grey = image.colourspace("b-w")
    wide = grey.colourspace("grey16")
    for data, expected in (
        (grey.pngsave_buffer(), grey),
        (wide.pngsave_buffer(), wide),
        (grey.bandjoin(grey).copy(interpretation="b-w").pngsave_buffer(), grey),
        (grey.tiffsave_buffer(), grey),
    ):
        picture = decode(put(bytes(data)))
        assert picture.grey
        for channel in range(3):
            assert np.array_equal(picture.pixels[..., channel], expected.numpy())


def test_one_bit_and_palette_are_expanded(image: pyvips.Image, put: Put) -> None:
    ink = (image[1] > 128).ifthenelse(255, 0).cast("uchar").copy(interpretation="b-w")
    for data in (
        ink.pngsave_buffer(bitdepth=1),
        ink.tiffsave_buffer(bitdepth=1, compression="ccittfax4"),
        ink.tiffsave_buffer(bitdepth=1, miniswhite=True),
    ):
        picture = decode(put(bytes(data)))
        assert picture.info.bit_depth == 1
        assert np.array_equal(picture.pixels[..., 0], ink.numpy())
    palette = decode(put(bytes(image.pngsave_buffer(palette=True))))
    assert palette.pixels.shape == (224, 256, 3)


def test_cmyk_becomes_srgb(image: pyvips.Image, photo: Photo, put: Put) -> None:
    cmyk = image.icc_transform("cmyk", input_profile="srgb")
    bare = cmyk.copy()
    bare.remove("icc-profile-data")
    for data in (
        cmyk.jpegsave_buffer(Q=98),
        cmyk.tiffsave_buffer(),
        bare.jpegsave_buffer(Q=98, keep=0),
        bare.tiffsave_buffer(keep=0),
    ):
        picture = decode(put(bytes(data)))
        assert picture.pixels.shape == photo.shape
        assert np.abs(picture.pixels.astype(int) - photo).mean() < 6
        assert picture.metadata.icc is not None
        assert picture.metadata.icc[16:20] == b"RGB "


def test_16_bit_lab_becomes_16_bit_rgb(image: pyvips.Image, photo: Photo, put: Put) -> None:
    picture = decode(put(bytes(image.colourspace("labs").tiffsave_buffer())))
    assert picture.pixels.dtype == np.uint16
    assert np.abs(picture.pixels / 257 - photo).mean() < 2


def test_alpha_that_hides_nothing_is_dropped_and_remembered(image: pyvips.Image, put: Put) -> None:
    picture = decode(put(bytes(image.bandjoin(255).pngsave_buffer())))
    assert picture.alpha is None
    assert picture.had_alpha


@pytest.mark.parametrize("kind", ["float", "int", "char", "double"])
def test_other_samples_are_refused_with_the_way_out(
    image: pyvips.Image, put: Put, kind: str
) -> None:
    data = image.cast(kind).tiffsave_buffer()
    with pytest.raises(NereidError, match="8- or 16-bit RGB") as caught:
        decode(put(bytes(data)))
    assert caught.value.code == "unsupported_pixel_format"


def test_many_channels_are_refused(image: pyvips.Image, put: Put) -> None:
    data = image.bandjoin([image, image]).tiffsave_buffer()
    with pytest.raises(NereidError) as caught:
        decode(put(bytes(data)))
    assert caught.value.code == "unsupported_pixel_format"


@pytest.mark.parametrize("name", ["jpeg", "png", "webp", "gif", "tiff", "avif"])
@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_a_truncated_file_is_damage(
    small_files: dict[str, bytes], put: Put, name: str, share: float
) -> None:
    data = small_files[name]
    with pytest.raises(JobFailed) as caught:
        decode(put(data[: int(len(data) * share)]))
    assert caught.value.code == "corrupt_picture"


def test_damage_inside_is_found(image: pyvips.Image, put: Put) -> None:
    for data in (
        image.jpegsave_buffer(),
        image.pngsave_buffer(),
        image.tiffsave_buffer(compression="lzw"),
        image.heifsave_buffer(compression="av1", effort=1),
    ):
        middle = len(data) // 2
        broken = bytes(data[:middle]) + b"\xff\x13" * 150 + bytes(data[middle + 300 :])
        with pytest.raises(JobFailed) as caught:
            decode(put(broken))
        assert caught.value.code == "corrupt_picture"


@pytest.mark.parametrize("name", ["jpeg", "png", "webp", "tiff", "avif"])
def test_bytes_after_the_end_do_no_harm(small_files: dict[str, bytes], put: Put, name: str) -> None:
    assert decode(put(small_files[name] + b"left over" * 50)).info.width == 48


def test_padding_before_a_jpeg_marker_does_no_harm(small_files: dict[str, bytes], put: Put) -> None:
    jpeg = small_files["jpeg"]
    plain = decode(put(jpeg)).pixels
    padded = decode(put(jpeg[:-2] + bytes(40) + jpeg[-2:]))
    assert np.array_equal(padded.pixels, plain)


def test_threads_do_not_disturb_each_other(image: pyvips.Image, tmp_path: Path) -> None:
    wanted = {}
    for number in range(24):
        path = tmp_path / str(number)
        turned = image.linear(1, number).cast("uchar").copy()
        turned.set_type(pyvips.GValue.gint_type, "orientation", 1 + number % 8)
        if number % 3:
            turned.tiffsave(str(path))
            wanted[path] = turned.autorot().numpy()
        else:
            path.write_bytes(bytes(turned.jpegsave_buffer())[:-200])
    with ThreadPoolExecutor(8) as pool:
        for path, found in zip(
            sorted(tmp_path.iterdir()),
            pool.map(pixels_or_code, sorted(tmp_path.iterdir())),
            strict=True,
        ):
            if path in wanted:
                assert isinstance(found, np.ndarray)
                assert np.array_equal(found, wanted[path])
            else:
                assert found == "corrupt_picture"


def pixels_or_code(path: Path) -> Photo | str:
    try:
        return decode(path).pixels
    except NereidError as error:
        return error.code
