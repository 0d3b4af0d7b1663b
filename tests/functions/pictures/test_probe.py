from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import pyvips

from functions._kit.errors import JobFailed, NereidError, Unprocessable, UnsupportedMedia
from functions._kit.pictures import (
    FORMATS,
    formats,
    probe,
    readable_formats,
    sniff,
    writable_formats,
)

Put = Callable[[bytes], Path]
Chunk = Callable[[bytes, bytes], bytes]


def test_every_format_is_known_by_its_content(small_files: dict[str, bytes], put: Put) -> None:
    for name, data in small_files.items():
        info = probe(put(data))
        assert (info.format, info.width, info.height) == (name, 48, 40)
        assert (info.bit_depth, info.has_alpha, info.pages, info.orientation) == (8, False, 1, 1)
        assert info.content_type == FORMATS[name].content_type
        assert probe(data) == info


def test_what_libvips_has_is_what_is_listed() -> None:
    assert set(readable_formats()) >= {"jpeg", "png", "webp", "tiff", "avif", "gif"}
    assert writable_formats() == ("jpeg", "png", "webp", "tiff", "avif")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"just some text\n" * 100,
        b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
        b"%PDF-1.7\n",
        b"\0" * 4096,
        b"\x00\x00\x00\x1cftypisom" + b"\0" * 100,
        b"P6\n2 2\n255\n" + b"\0" * 12,
    ],
)
def test_content_that_is_no_picture_is_refused_with_the_list_of_types(
    data: bytes, put: Put
) -> None:
    with pytest.raises(UnsupportedMedia) as caught:
        probe(put(data))
    assert caught.value.code == "unsupported_media_type"
    assert "image/jpeg" in caught.value.message


def test_libvips_own_sniffing_reaches_only_our_loaders(tmp_path: Path) -> None:
    path = tmp_path / "picture.svg"
    path.write_bytes(b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>")
    with pytest.raises(pyvips.Error):
        pyvips.Image.new_from_file(str(path))


def test_heic_is_read_or_refused_as_a_type_never_as_damage(put: Put) -> None:
    path = put(formats._HEIC_SAMPLE)
    assert sniff(formats._HEIC_SAMPLE) == "heic"
    if "heic" in readable_formats():
        assert probe(path).width == 16
    else:
        with pytest.raises(UnsupportedMedia, match="image/heic"):
            probe(path)


def png_bomb(chunk: Chunk) -> bytes:
    header = struct.pack(">IIBBBBB", 65_500, 65_500, 8, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(bytes(100_000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IEND", b"")


def jpeg_bomb(jpeg: bytes) -> bytes:
    frame = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:frame] + struct.pack(">HH", 65_500, 65_500) + jpeg[frame + 4 :]


def test_a_bomb_is_refused_from_its_header(
    small_files: dict[str, bytes], png_chunk: Chunk, put: Put
) -> None:
    for data in (png_bomb(png_chunk), jpeg_bomb(small_files["jpeg"])):
        with pytest.raises(Unprocessable, match="65500 x 65500") as caught:
            probe(put(data))
        assert caught.value.code == "picture_too_large"


def test_the_limit_holds_at_the_very_pixel(small_files: dict[str, bytes]) -> None:
    probe(small_files["png"], max_pixels=48 * 40)
    with pytest.raises(Unprocessable) as caught:
        probe(small_files["png"], max_pixels=48 * 40 - 1)
    assert caught.value.code == "picture_too_large"


def apng(png: bytes, chunk: Chunk, frames: int) -> bytes:
    return png[:33] + chunk(b"acTL", struct.pack(">II", frames, 0)) + png[33:]


def code_of(data: bytes) -> str:
    with pytest.raises(NereidError) as caught:
        probe(data)
    return caught.value.code


def test_what_moves_is_refused(
    image: pyvips.Image, small_files: dict[str, bytes], png_chunk: Chunk
) -> None:
    frames = image.crop(0, 0, 32, 64).copy()
    frames.set_type(pyvips.GValue.gint_type, "page-height", 32)
    for suffix in (".gif", ".webp"):
        assert code_of(bytes(frames.write_to_buffer(suffix))) == "animated_picture"
    assert code_of(apng(small_files["png"], png_chunk, 2)) == "animated_picture"
    avif = small_files["avif"]
    assert code_of(avif[:8] + b"avis" + avif[12:]) == "animated_picture"
    assert code_of(avif + struct.pack(">I", 8) + b"moov") == "animated_picture"


def test_an_apng_of_one_frame_is_a_still_picture(
    small_files: dict[str, bytes], png_chunk: Chunk
) -> None:
    assert probe(apng(small_files["png"], png_chunk, 1)).width == 48


def test_a_tiff_of_several_pictures_is_refused_and_one_with_previews_is_not(
    image: pyvips.Image,
) -> None:
    pages = image.crop(0, 0, 32, 64).copy()
    pages.set_type(pyvips.GValue.gint_type, "page-height", 32)
    for big in (False, True):
        assert code_of(bytes(pages.tiffsave_buffer(bigtiff=big))) == "multiple_pages"
        pyramid = image.tiffsave_buffer(
            tile=True, pyramid=True, tile_width=32, tile_height=32, bigtiff=big
        )
        info = probe(bytes(pyramid))
        assert info.pages > 1
        assert (info.width, info.height) == (image.width, image.height)


def test_sides_are_told_after_orientation(image: pyvips.Image) -> None:
    part = image.crop(0, 0, 48, 40).copy()
    for orientation in range(1, 9):
        part.set_type(pyvips.GValue.gint_type, "orientation", orientation)
        info = probe(bytes(part.jpegsave_buffer()))
        assert info.orientation == orientation
        assert (info.width, info.height) == ((48, 40) if orientation < 5 else (40, 48))


def test_a_broken_header_is_damage(small_files: dict[str, bytes]) -> None:
    for name in ("jpeg", "png", "webp", "tiff", "avif"):
        with pytest.raises(JobFailed) as caught:
            probe(small_files[name][:36])
        assert caught.value.code == "corrupt_picture"


def test_a_box_that_says_it_is_larger_than_any_file_leads_nowhere(
    small_files: dict[str, bytes], tmp_path: Path
) -> None:
    path = tmp_path / "large"
    path.write_bytes(small_files["avif"] + struct.pack(">I4sQ", 1, b"free", 2**64 - 1))
    assert probe(path).format == "avif"
