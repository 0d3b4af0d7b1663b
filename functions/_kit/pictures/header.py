"""What a picture is, from its header alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyvips

from functions._kit.errors import JobFailed, Unprocessable
from functions._kit.pictures.containers import is_animated, tiff_pages
from functions._kit.pictures.formats import FORMATS, ReadFormat, format_of, open_image

MAX_PIXELS = 100_000_000

ORIENTATIONS = range(1, 9)  # EXIF
TURNED = range(5, 9)  # those of them that swap width and height


@dataclass(frozen=True, slots=True)
class PictureInfo:
    """A picture's header. `width` and `height` are pixels after `orientation` (EXIF, 1 to 8)."""

    format: ReadFormat
    content_type: str
    width: int
    height: int
    bands: int
    bit_depth: int
    has_alpha: bool
    pages: int
    orientation: int


def probe(source: Path | bytes, *, max_pixels: int = MAX_PIXELS) -> PictureInfo:
    """Read the header of a file, or of the bytes of a whole file; no pixel is decoded.

    Raises `UnsupportedMedia`, `Unprocessable` (`picture_too_large`, `animated_picture`,
    `multiple_pages`) and `JobFailed` (`corrupt_picture`).
    """
    name = format_of(source)
    if is_animated(source, name):
        raise animated()
    try:
        image = open_image(source, name)
    except pyvips.Error as error:
        if name == "tiff" and tiff_pages(source):
            raise unsupported_pixels("samples of a kind that libvips cannot read") from error
        raise broken(name, error) from error
    info = describe(image, name)
    check_size(info, max_pixels)
    if info.pages > 1 and name in ("gif", "webp"):
        raise animated()
    if name == "tiff" and info.pages > 1 and tiff_pages(source) != 1:
        raise Unprocessable(
            "multiple_pages",
            f"The file has {info.pages} pages and one picture is taken. "
            "Send each page as a file of its own.",
            field="file",
        )
    return info


def describe(image: pyvips.Image, name: ReadFormat) -> PictureInfo:
    """The facts in an opened image's header."""
    orientation = orientation_of(image, name)
    width, height = image.width, image.height
    if orientation in TURNED:
        width, height = height, width
    depth = field(image, "bits-per-sample")
    return PictureInfo(
        format=name,
        content_type=FORMATS[name].content_type,
        width=width,
        height=height,
        bands=image.bands,
        bit_depth=depth or (16 if image.format == "ushort" else 8),
        has_alpha=bool(image.hasalpha()),
        pages=field(image, "n-pages") or 1,
        orientation=orientation,
    )


def orientation_of(image: pyvips.Image, name: ReadFormat) -> int:
    """The EXIF orientation still to be applied, 1 where there is none or nonsense."""
    if name in ("avif", "heic"):
        return 1  # libheif has turned the picture by the container's own properties already
    value = field(image, "orientation") or 1
    return value if value in ORIENTATIONS else 1


def field(image: pyvips.Image, name: str) -> int | None:
    """A whole number from the header, or None."""
    return int(image.get(name)) if image.get_typeof(name) else None


def check_size(info: PictureInfo, max_pixels: int) -> None:
    """Raise `Unprocessable` (`picture_too_large`) beyond `max_pixels`."""
    if info.width * info.height > max_pixels:
        raise Unprocessable(
            "picture_too_large",
            f"The picture has {info.width} x {info.height} pixels and at most "
            f"{max_pixels:,} in all are taken. Send a smaller one.",
            field="file",
        )


def animated() -> Unprocessable:
    """The error for pictures that move."""
    return Unprocessable(
        "animated_picture",
        "The file is an animation and only still pictures are taken. Send a single frame.",
        field="file",
    )


def unsupported_pixels(what: str) -> Unprocessable:
    """The error for a sound file whose samples are of no kind that we take."""
    return Unprocessable(
        "unsupported_pixel_format",
        f"The picture holds {what}; grey, RGB, CMYK and Lab of 8 or 16 bits are read. "
        "Save it as 8- or 16-bit RGB.",
        field="file",
    )


def broken(name: str, error: pyvips.Error) -> JobFailed | MemoryError:
    """What libvips' error on a file of this format means: `corrupt`, or a lack of memory."""
    return MemoryError() if "out of memory" in str(error) else corrupt(name)


def corrupt(name: str) -> JobFailed:
    """The error for a file that breaks off or contradicts itself."""
    return JobFailed(
        "corrupt_picture",
        f"The file starts as {FORMATS[name].content_type} and cannot be decoded: "
        "it is truncated or damaged. Send it again from its source.",
    )


def crashed() -> JobFailed:
    """The error for a file that ends the program that decodes it."""
    return JobFailed(
        "picture_crashed",
        "The file ends the program that decodes it, as damaged or malicious ones may. "
        "Save the picture again from its source.",
    )


def too_costly(what: str) -> JobFailed:
    """The error for a file that takes more time or memory, or holds more metadata, than it may."""
    return JobFailed(
        "picture_too_costly",
        f"The file takes more {what} than a picture of its size may. "
        "Save it in its ordinary form, not interlaced and without needless metadata.",
    )
