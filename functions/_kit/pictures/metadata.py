"""What a picture carries beside its pixels: EXIF, colour profile, XMP, IPTC, resolution."""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass

import pyvips

_BLOBS = {"icc": "icc-profile-data", "xmp": "xmp-data", "iptc": "iptc-data"}
# VipsForeignKeep of libvips 8.15 and later
KEEP_NONE, KEEP_EXIF, KEEP_XMP, KEEP_IPTC, KEEP_ICC = 0, 1, 2, 4, 8

_XMP_ORIENTATION = re.compile(rb"(tiff:Orientation\s*(?:=\s*[\"']|>)\s*)[2-8]")
# Lists of parts appended to the file (gain map, motion photo), which do not come along.
_XMP_OF_PARTS = (b"hdrgm:", b"Container:Directory", b"MicroVideo")


@dataclass(frozen=True, slots=True)
class Metadata:
    """A picture's metadata as its file held it; resolution in pixels per millimetre."""

    exif: bytes | None = None
    icc: bytes | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None
    x_resolution: float = 1.0
    y_resolution: float = 1.0


def read_metadata(image: pyvips.Image) -> Metadata:
    """Metadata of an opened image; EXIF says orientation 1 and carries no thumbnail any more."""
    exif = image.get("exif-data") if image.get_typeof("exif-data") else None
    blobs = {key: image.get(name) for key, name in _BLOBS.items() if image.get_typeof(name)}
    xmp = blobs.get("xmp")
    return Metadata(
        exif=upright_exif(exif) if exif else None,
        icc=blobs.get("icc"),
        xmp=_upright_xmp(xmp) if xmp else None,
        iptc=blobs.get("iptc"),
        x_resolution=image.xres,
        y_resolution=image.yres,
    )


def with_sound_profile(image: pyvips.Image) -> pyvips.Image:
    """The image without its colour profile where that cannot be used: it says nothing then."""
    if not image.get_typeof(_BLOBS["icc"]):
        return image
    colours = image.bands - image.hasalpha()
    pixel = pyvips.Image.black(1, 1, bands=colours).cast(image.format)
    pixel = pixel.copy(interpretation=image.interpretation)
    pixel.set_type(pyvips.GValue.blob_type, _BLOBS["icc"], image.get(_BLOBS["icc"]))
    try:
        pixel.icc_transform("srgb", embedded=True).avg()
    except pyvips.Error:
        image = image.copy()
        image.remove(_BLOBS["icc"])
    return image


def upright_exif(exif: bytes) -> bytes | None:
    """EXIF with orientation 1 and without its thumbnail; None where it cannot be parsed."""
    try:
        carrier = _exif_carrier(exif).copy()  # a copy's header may be changed
        _make_upright(carrier)
        written = carrier.pngsave_buffer(keep=KEEP_EXIF)
        return bytes(pyvips.Image.pngload_buffer(written).get("exif-data"))
    except pyvips.Error:
        return None


def attach(image: pyvips.Image, metadata: Metadata) -> tuple[pyvips.Image, int]:
    """The image with the metadata on it, and libvips' `keep` flags that write just that.

    The saver writes the new size into EXIF.
    """
    image = image.copy(xres=metadata.x_resolution, yres=metadata.y_resolution)
    keep = KEEP_NONE
    if metadata.exif:
        _copy_exif(metadata.exif, image)
        keep |= KEEP_EXIF
    for flag, name, blob in (
        (KEEP_ICC, "icc-profile-data", metadata.icc),
        (KEEP_XMP, "xmp-data", metadata.xmp),
        (KEEP_IPTC, "iptc-data", metadata.iptc),
    ):
        if blob:
            image.set_type(pyvips.GValue.blob_type, name, blob)
            keep |= flag
    return image, keep


def _copy_exif(exif: bytes, target: pyvips.Image) -> None:
    carrier = _exif_carrier(exif)
    for name in carrier.get_fields():
        if name.startswith("exif-"):
            target.set_type(carrier.get_typeof(name), name, carrier.get(name))


def _make_upright(image: pyvips.Image) -> None:
    for name in ("orientation", "exif-ifd0-Orientation", "exif-ifd1-Orientation"):
        if image.get_typeof(name):
            image.remove(name)
    image.set_type(pyvips.GValue.gint_type, "orientation", 1)
    if image.get_typeof("jpeg-thumbnail-data"):
        image.remove("jpeg-thumbnail-data")


def _exif_carrier(exif: bytes) -> pyvips.Image:
    """A PNG of one pixel that carries the EXIF: libvips parses EXIF only while it loads a file."""
    body = exif.removeprefix(b"Exif\0\0")
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)),
        (b"eXIf", body),
        (b"IDAT", zlib.compress(b"\0\0")),
        (b"IEND", b""),
    )
    png = b"\x89PNG\r\n\x1a\n" + b"".join(_png_chunk(kind, data) for kind, data in chunks)
    return pyvips.Image.pngload_buffer(png)


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _upright_xmp(xmp: bytes) -> bytes | None:
    if any(mark in xmp for mark in _XMP_OF_PARTS):
        return None
    return _XMP_ORIENTATION.sub(rb"\g<1>1", xmp)
