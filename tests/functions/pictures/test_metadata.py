from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import pyvips
from numpy.typing import NDArray

from functions._kit.pictures import Metadata, WriteFormat, decode, encode, thumbnail

XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-'
    b'syntax-ns#"><rdf:Description tiff:Orientation="6" xmp:Rating="4"/></rdf:RDF></x:xmpmeta>'
)
ALL: tuple[WriteFormat, ...] = ("jpeg", "png", "webp", "avif", "tiff")
KEEP_EXIF: tuple[WriteFormat, ...] = ("jpeg", "png", "webp", "avif")
CAMERA = {
    "exif-ifd0-Make": "Nereid Optics",
    "exif-ifd0-Model": "N-1",
    "exif-ifd2-DateTimeOriginal": "2024:05:06 07:08:09",
    "exif-ifd2-LensModel": "35mm f/2",
    "exif-ifd3-GPSLatitude": "52/1 30/1 1234/100",
}


@pytest.fixture(scope="module")
def camera_file(image: pyvips.Image, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A JPEG as from a camera held upright: orientation 6, thumbnail, Display P3, XMP."""
    path = tmp_path_factory.mktemp("camera") / "photo.jpg"
    photo = image.icc_transform("p3", input_profile="srgb").rot270().copy(xres=11.8, yres=11.8)
    for name, value in CAMERA.items():
        photo.set_type(pyvips.GValue.gstr_type, name, value)
    photo.set_type(pyvips.GValue.gint_type, "orientation", 6)
    photo.set_type(pyvips.GValue.blob_type, "xmp-data", XMP)
    thumbnail = bytes(image.thumbnail_image(32).jpegsave_buffer(keep=0))
    photo.set_type(pyvips.GValue.blob_type, "jpeg-thumbnail-data", thumbnail)
    photo.jpegsave(str(path), Q=95)
    assert thumbnail[:200] in path.read_bytes()
    return path


def exif_text(path: Path) -> dict[str, str]:
    image = pyvips.Image.new_from_file(str(path))
    return {n: image.get(n).split(" (")[0] for n in image.get_fields() if n.startswith("exif-ifd")}


@pytest.mark.parametrize("name", KEEP_EXIF)
def test_exif_comes_along_and_stays_true(
    camera_file: Path, tmp_path: Path, name: WriteFormat
) -> None:
    picture = decode(camera_file)
    twice = picture.pixels.repeat(2, axis=0).repeat(2, axis=1)
    encode(twice, None, tmp_path / "out", format=name, metadata=picture.metadata)
    exif = exif_text(tmp_path / "out")
    for field, value in CAMERA.items():
        if "GPS" not in field:
            assert exif[field] == value
    assert exif["exif-ifd3-GPSLatitude"] == exif_text(camera_file)["exif-ifd3-GPSLatitude"]
    assert exif.get("exif-ifd0-Orientation", "1") == "1"
    assert exif["exif-ifd2-PixelXDimension"] == "512"
    assert exif["exif-ifd2-PixelYDimension"] == "448"
    assert not pyvips.Image.new_from_file(str(tmp_path / "out")).get_typeof("jpeg-thumbnail-data")
    assert not any(field.startswith("exif-ifd1") for field in exif)
    assert decode(tmp_path / "out").info.orientation == 1


@pytest.mark.parametrize("name", ALL)
def test_profile_xmp_and_pixels_come_along(
    camera_file: Path, tmp_path: Path, name: WriteFormat
) -> None:
    picture = decode(camera_file)
    encode(picture.pixels, None, tmp_path / "out", format=name, metadata=picture.metadata)
    back = decode(tmp_path / "out")
    assert picture.metadata.icc is not None
    assert back.metadata.icc == picture.metadata.icc
    assert back.metadata.xmp is not None
    assert b'xmp:Rating="4"' in back.metadata.xmp
    assert b'tiff:Orientation="1"' in back.metadata.xmp
    assert np.abs(back.pixels.astype(int) - picture.pixels).mean() < 4
    if name in ("jpeg", "png", "tiff"):
        assert back.metadata.x_resolution == pytest.approx(11.8, rel=0.01)


@pytest.mark.parametrize("name", ALL)
def test_nothing_comes_along_when_asked(
    camera_file: Path, tmp_path: Path, name: WriteFormat
) -> None:
    picture = decode(camera_file)
    path = tmp_path / "out"
    for metadata in (None, picture.metadata):
        encode(picture.pixels, None, path, format=name, metadata=metadata, keep_metadata=False)
        back = pyvips.Image.new_from_file(str(path))
        carried = {"exif-data", "xmp-data", "iptc-data", "icc-profile-data"}
        assert not carried & set(back.get_fields())
        data = path.read_bytes()
        for mark in (b"Exif", b"eXIf", b"Nereid", b"xmpmeta", b"acsp", b"2024:05:06"):
            assert mark not in data


def test_a_stripped_picture_of_a_wide_profile_is_converted_to_srgb(
    image: pyvips.Image, camera_file: Path, tmp_path: Path
) -> None:
    picture = decode(camera_file)
    path = tmp_path / "out"
    encode(picture.pixels, None, path, format="png", metadata=picture.metadata, keep_metadata=False)
    pixels, srgb = decode(path).pixels.astype(int), image.numpy().astype(int)
    converted, untouched = np.abs(pixels - srgb).mean(), np.abs(picture.pixels - srgb).mean()
    assert converted < 4
    assert untouched > converted + 1


def test_16_bits_survive_the_conversion(
    photo: NDArray[np.uint8], camera_file: Path, tmp_path: Path
) -> None:
    metadata = Metadata(icc=decode(camera_file).metadata.icc)
    wide = photo.astype(np.uint16) * 257
    encode(wide, None, tmp_path / "out", format="png", metadata=metadata, keep_metadata=False)
    back = decode(tmp_path / "out").pixels
    assert back.dtype == np.uint16
    assert len(np.unique(back)) > 1000


def test_decoded_exif_is_upright_and_without_a_thumbnail(camera_file: Path) -> None:
    picture = decode(camera_file)
    assert picture.info.orientation == 6
    assert picture.metadata.exif is not None
    assert b"Nereid Optics" in picture.metadata.exif
    assert b"\xff\xd8\xff" not in picture.metadata.exif


@pytest.mark.parametrize("exif", [b"", b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"\0" * 99])
def test_broken_exif_does_not_stop_a_picture(
    photo: NDArray[np.uint8], tmp_path: Path, exif: bytes
) -> None:
    segment = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    encode(photo, None, tmp_path / "in", format="jpeg")
    data = (tmp_path / "in").read_bytes()
    (tmp_path / "in").write_bytes(data[:2] + segment + data[2:])
    picture = decode(tmp_path / "in")
    encode(picture.pixels, None, tmp_path / "out", format="jpeg", metadata=picture.metadata)
    assert decode(tmp_path / "out").pixels.shape == photo.shape


def test_a_profile_of_another_colour_space_is_dropped(
    photo: NDArray[np.uint8], image: pyvips.Image, tmp_path: Path
) -> None:
    cmyk = image.icc_transform("cmyk", input_profile="srgb").get("icc-profile-data")
    for icc in (cmyk, b"nonsense", b""):
        encode(photo, None, tmp_path / "out", format="png", metadata=Metadata(icc=icc))
        assert decode(tmp_path / "out").metadata.icc is None


def test_a_damaged_profile_is_dropped(
    image: pyvips.Image, camera_file: Path, tmp_path: Path
) -> None:
    icc = decode(camera_file).metadata.icc
    assert icc is not None
    damaged = image.copy()
    damaged.set_type(pyvips.GValue.blob_type, "icc-profile-data", icc[:300] + bytes(len(icc) - 300))
    damaged.tiffsave(str(tmp_path / "in"))
    picture = decode(tmp_path / "in")
    assert picture.metadata.icc is None
    assert np.array_equal(picture.pixels, image.numpy())
    thumbnail(tmp_path / "in", tmp_path / "out", longest_side=32)


def test_xmp_that_lists_appended_parts_stays_behind(image: pyvips.Image, tmp_path: Path) -> None:
    photo = image.copy()
    gain_map = XMP.replace(b"xmp:Rating", b"hdrgm:Version")
    photo.set_type(pyvips.GValue.blob_type, "xmp-data", gain_map)
    photo.jpegsave(str(tmp_path / "in"))
    assert decode(tmp_path / "in").metadata.xmp is None
