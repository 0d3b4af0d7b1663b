"""Pictures as a detector wants them: within a rectangle, upright, RGB, grey beside."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import pyvips
from numpy.typing import NDArray

from functions._kit.errors import JobFailed, NereidError, Unprocessable, UnsupportedMedia
from functions._kit.pictures import letterbox

Pixels = NDArray[Any]
GREY = 114


def reference(pixels: Pixels, width: int, height: int) -> Pixels:
    """The mean of the pixels under each new one: what any good reduction comes near to."""
    rows = np.linspace(0, pixels.shape[0], height + 1)
    columns = np.linspace(0, pixels.shape[1], width + 1)
    whole = np.zeros((pixels.shape[0] + 1, pixels.shape[1] + 1, 3))
    whole[1:, 1:] = pixels.astype(float).cumsum(0).cumsum(1)

    def along(values: Pixels, at: Pixels, axis: int) -> Pixels:
        low = np.floor(at).astype(int)
        high = np.minimum(low + 1, values.shape[axis] - 1)
        part = (at - low).reshape([-1 if n == axis else 1 for n in range(3)])
        return np.asarray(values.take(low, axis) * (1 - part) + values.take(high, axis) * part)

    sums = along(along(whole, rows, 0), columns, 1)
    area = (pixels.shape[0] / height) * (pixels.shape[1] / width)
    return np.asarray(np.diff(np.diff(sums, axis=0), axis=1) / area)


def inside(data: bytes, **options: int) -> Pixels:
    """The picture's own pixels; all others are grey."""
    box = letterbox(data, **({"width": 416, "height": 416} | options))
    assert box.pixels.dtype == np.uint8
    assert box.pixels.shape == (options.get("height", 416), options.get("width", 416), 3)
    assert box.pixels.flags.c_contiguous
    assert (box.pixels[box.inner_height :] == GREY).all()
    assert (box.pixels[:, box.inner_width :] == GREY).all()
    return box.pixels[: box.inner_height, : box.inner_width]


@pytest.fixture(scope="module")
def big(image: pyvips.Image) -> pyvips.Image:
    """The photo, 1792 x 2048: eight times as large, with detail of its own."""
    return image.resize(8, kernel="cubic").copy_memory()


@pytest.mark.parametrize("scale", [0.25, 0.5, 1.0, 1.2, 1.7, 2.0, 3.1, 3.9, 4.0, 7.9, 8.0])
@pytest.mark.parametrize("suffix", [".jpg[Q=95]", ".png"])
def test_a_reduced_picture_is_the_mean_of_its_pixels(
    big: pyvips.Image, scale: float, suffix: str
) -> None:
    """At each of JPEG's own reductions, before and after it, against all its pixels."""
    part = big.resize(scale / 8).copy_memory()
    pixels = part.numpy()
    got = inside(part.write_to_buffer(suffix), width=128, height=128)
    scale_down = 128 / max(part.width, part.height)
    assert got.shape[:2] == (round(part.height * scale_down), round(part.width * scale_down))
    if scale_down < 1:
        want = reference(pixels, got.shape[1], got.shape[0])
        assert np.abs(got - want).mean() < 4
        # a shift by a pixel would be worse than what is allowed here
        assert np.abs(got - want).mean() < np.abs(np.roll(want, 1, 1) - want).mean() / 2


def test_sizes_fit_whatever_the_shape() -> None:
    """Wide, tall, tiny, huge: the longer side fills, the other keeps the shape."""
    chance = random.Random(3)
    shapes = [(16, 16), (16, 4000), (4000, 16), (416, 416), (417, 415), (3, 3), (1920, 1080)]
    shapes += [(chance.randint(16, 1500), chance.randint(16, 1500)) for _ in range(40)]
    for width, height in shapes:
        for suffix in (".jpg", ".png"):
            data = pyvips.Image.black(width, height, bands=3).write_to_buffer(suffix)
            if min(width, height) < 16:
                with pytest.raises(Unprocessable):
                    letterbox(data, width=416, height=416)
                continue
            box = letterbox(data, width=416, height=240)
            scale = min(416 / width, 240 / height)
            expected = (max(1, round(width * scale)), max(1, round(height * scale)))
            assert (box.inner_width, box.inner_height) == expected, (width, height, suffix)
            assert (box.pixels[: expected[1], : expected[0]] < 3).all()
            outside = box.pixels.copy()
            outside[: expected[1], : expected[0]] = GREY
            assert (outside == GREY).all()


def test_a_picture_of_the_right_size_is_left_as_it_is(image: pyvips.Image) -> None:
    got = inside(image.pngsave_buffer(), width=image.width, height=image.height)
    assert (got == image.numpy()).all()


def test_a_small_picture_is_enlarged(image: pyvips.Image) -> None:
    part = image.crop(20, 20, 64, 48).copy_memory()
    got = inside(part.pngsave_buffer())
    assert got.shape == (312, 416, 3)
    again = reference(got, 64, 48)
    assert np.abs(again - part.numpy()).mean() < 4


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("factor", [1, 4])
def test_a_turned_picture_is_upright(
    image: pyvips.Image, orientation: int, suffix: str, factor: int
) -> None:
    """The same picture, stored in each of the eight ways."""
    upright = image.crop(0, 0, 200, 120).resize(factor, kernel="cubic").copy_memory()
    stored = {
        1: lambda i: i,
        2: lambda i: i.fliphor(),
        3: lambda i: i.rot180(),
        4: lambda i: i.flipver(),
        5: lambda i: i.rot90().fliphor(),
        6: lambda i: i.rot270(),
        7: lambda i: i.rot270().fliphor(),
        8: lambda i: i.rot90(),
    }[orientation](upright)
    stored = stored.copy()
    stored.set_type(pyvips.GValue.gint_type, "orientation", orientation)
    got = inside(stored.write_to_buffer(suffix), width=100, height=100)
    assert got.shape == (60, 100, 3)
    assert np.abs(got - reference(upright.numpy(), 100, 60)).mean() < 5


def kinds(image: pyvips.Image) -> dict[str, tuple[pyvips.Image, str]]:
    """The same part of the photo in many kinds of pixels."""
    part = image.crop(0, 0, 96, 96).copy_memory()
    grey = part.colourspace("b-w")
    opaque = part.bandjoin(255).copy(interpretation="srgb")
    wide = (part * 257).cast("ushort").copy(interpretation="rgb16")
    return {
        "RGB JPEG": (part, ".jpg[Q=95]"),
        "grey JPEG": (grey, ".jpg[Q=95]"),
        "CMYK JPEG": (part.icc_transform("cmyk", input_profile="srgb"), ".jpg[Q=95]"),
        "progressive JPEG": (part, ".jpg[Q=95,interlace]"),
        "palette PNG": (part, ".png[palette]"),
        "grey PNG": (grey, ".png"),
        "grey PNG with alpha": (grey.bandjoin(255).copy(interpretation="b-w"), ".png"),
        "RGBA PNG": (opaque, ".png"),
        "16-bit PNG": (wide, ".png"),
        "16-bit TIFF": (wide, ".tif"),
        "WebP": (part, ".webp[Q=95]"),
        "WebP with alpha": (opaque, ".webp[Q=95]"),
        "GIF": (part, ".gif"),
        "AVIF": (part, ".avif[Q=90,effort=1]"),
    }


def test_every_kind_of_picture_comes_in_rgb_of_8_bits(image: pyvips.Image) -> None:
    part = image.crop(0, 0, 96, 96).copy_memory()
    colour = reference(part.numpy(), 48, 48)
    one = part.colourspace("b-w")
    grey = reference(one.bandjoin([one, one]).numpy(), 48, 48)
    for what, (picture, suffix) in kinds(image).items():
        got = inside(picture.write_to_buffer(suffix), width=48, height=64)
        want = grey if what.startswith("grey") else colour
        limit = 25 if what.startswith("CMYK") else 8  # CMYK's inks are duller
        assert np.abs(got - want).mean() < limit, what


def test_what_can_be_seen_through_lies_on_white() -> None:
    clear = pyvips.Image.black(64, 64, bands=4).copy(interpretation="srgb")
    assert (inside(clear.pngsave_buffer(), width=32, height=32) == 255).all()


def test_a_multiple_is_the_smallest_that_holds_the_picture(image: pyvips.Image) -> None:
    part = image.resize(320 / image.width, vscale=180 / image.height)
    data = part.jpegsave_buffer()
    whole = letterbox(data, width=416, height=416)
    cut = letterbox(data, width=416, height=416, multiple_of=32)
    assert (cut.inner_width, cut.inner_height) == (whole.inner_width, whole.inner_height)
    assert (cut.inner_width, cut.inner_height) == (416, 234)
    assert cut.pixels.shape == (256, 416, 3)
    assert (cut.pixels == whole.pixels[:256]).all()
    for width, height in ((180, 320), (416, 416), (1000, 16), (16, 1000), (417, 33)):
        data = pyvips.Image.black(width, height, bands=3).pngsave_buffer()
        box = letterbox(data, width=416, height=416, multiple_of=32)
        rows, columns, _ = box.pixels.shape
        assert rows % 32 == columns % 32 == 0
        assert 0 <= rows - box.inner_height < 32
        assert 0 <= columns - box.inner_width < 32


def code_of(data: bytes, **options: int) -> str:
    with pytest.raises((JobFailed, Unprocessable, UnsupportedMedia)) as caught:
        letterbox(data, **({"width": 416, "height": 416} | options))
    assert isinstance(caught.value, NereidError)
    return caught.value.code


def test_pictures_that_show_nothing_are_too_small(image: pyvips.Image) -> None:
    for width, height in ((1, 1), (15, 200), (200, 15)):
        assert code_of(image.crop(0, 0, width, height).pngsave_buffer()) == "picture_too_small"
    letterbox(image.crop(0, 0, 16, 16).pngsave_buffer(), width=416, height=416)
    turned = image.crop(0, 0, 16, 15).copy()
    turned.set_type(pyvips.GValue.gint_type, "orientation", 6)
    assert code_of(turned.jpegsave_buffer()) == "picture_too_small"


def test_the_limit_of_pixels_is_the_pictures_not_the_reduced_ones(image: pyvips.Image) -> None:
    data = image.pngsave_buffer()
    pixels = image.width * image.height
    letterbox(data, width=32, height=32, max_pixels=pixels)
    assert code_of(data, width=32, height=32, max_pixels=pixels - 1) == "picture_too_large"


def test_a_header_of_400_megapixels_is_refused_before_a_pixel_is_read(image: pyvips.Image) -> None:
    data = bytes(image.jpegsave_buffer())
    at = data.index(b"\xff\xc0") + 5
    begun = time.process_time()
    assert code_of(data[:at] + b"\x4e\x20\x4e\x20" + data[at + 4 :]) == "picture_too_large"
    assert time.process_time() - begun < 1


@pytest.mark.parametrize("scale", [1, 3, 8])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.98])
@pytest.mark.parametrize("suffix", [".jpg", ".jpg[interlace]", ".png"])
def test_a_picture_that_breaks_off_is_corrupt_however_far_it_is_reduced(
    image: pyvips.Image, scale: int, share: float, suffix: str
) -> None:
    data = bytes(image.resize(scale).write_to_buffer(suffix))
    assert code_of(data[: int(len(data) * share)], width=128, height=128) == "corrupt_picture"


def test_what_is_no_picture_is_refused(small_files: dict[str, bytes]) -> None:
    for data in (b"", b"words", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%PDF-1.7"):
        assert code_of(data) == "unsupported_media_type"
    for name, data in small_files.items():
        assert inside(data).shape == (347, 416, 3), name


def test_padding_after_the_scan_is_no_damage(
    image: pyvips.Image, put: Callable[[bytes], Any]
) -> None:
    """Cameras write some bytes before the last marker; libjpeg only warns of them."""
    data = bytes(image.jpegsave_buffer())
    assert data.endswith(b"\xff\xd9")
    padded = data[:-2] + b"\0" * 40 + data[-2:]
    assert (inside(padded) == inside(data)).all()
