"""Which pictures are read and written, and by which libvips loader.

The content's first bytes choose the one loader that may run; libvips' own sniffing is never used,
so nothing reaches an SVG, PDF or ImageMagick parser.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import pyvips

from functions._kit.errors import UnsupportedMedia

ReadFormat = Literal["jpeg", "png", "webp", "gif", "tiff", "avif", "heic"]
WriteFormat = Literal["jpeg", "png", "webp", "avif", "tiff"]


@dataclass(frozen=True, slots=True)
class Format:
    """A picture format, its loader and saver in libvips, and the longest side that it can hold."""

    name: ReadFormat
    content_type: str
    suffix: str
    loader: str
    saver: str | None = None
    longest_side: int | None = None
    alpha: bool = True


# Longest sides: libjpeg's JPEG_MAX_DIMENSION, WebP's WEBP_MAX_DIMENSION, libvips' heifsave.
FORMATS: dict[str, Format] = {
    f.name: f
    for f in (
        Format("jpeg", "image/jpeg", ".jpg", "jpegload", "jpegsave", 65_500, alpha=False),
        Format("png", "image/png", ".png", "pngload", "pngsave"),
        Format("webp", "image/webp", ".webp", "webpload", "webpsave", 16_383),
        Format("tiff", "image/tiff", ".tif", "tiffload", "tiffsave"),
        Format("avif", "image/avif", ".avif", "heifload", "heifsave", 16_384),
        Format("heic", "image/heic", ".heic", "heifload"),
        Format("gif", "image/gif", ".gif", "gifload"),
    )
}

_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"heif"}

# Two threads per picture suffice: several tasks decode and encode at the same time.
_THREADS = 2

# A 16 x 16 HEIC: libheif opens headers without an HEVC decoder, so only decoding one tells.
_HEIC_SAMPLE = base64.b64decode(
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAXxtZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAA"
    "AAAAAAAAACJpbG9jAAAAAERAAAEAAQAAAAABoAABAAAAAAAAACYAAAAjaWluZgAAAAAAAQAAABVpbmZlAgAAAAABAABo"
    "dmMxAAAAAA5waXRtAAAAAAABAAAA/GlwcnAAAADcaXBjbwAAAHVodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADwNgAAEA"
    "GEABDAH//wNwAAADAJAAAAMAAAMAHroCQGEAAQApQgEBA3AAAAMAkAAAAwAAAwAeoCCBBZbqrprm4CGgwIAAAAyAAAADA"
    "IRiAAEABkQBwXPBiQAAABNjb2xybmNseAABAA0ABoAAAAAUaXNwZQAAAAAAAABAAAAAQAAAAChjbGFwAAAAEAAAAAEAAA"
    "AQAAAAAf///9AAAAAC////0AAAAAIAAAAQcGl4aQAAAAADCAgIAAAAGGlwbWEAAAAAAAAAAQABBYECAwWEAAAALm1kYXQ"
    "AAAAiKAGvBRITTOD6ulI7n+PMeDAJh7PlQKzvFvyglVoQkfFbQA=="
)


def set_up_libvips() -> None:
    """Block every loader that is not in `FORMATS`, drop the cache of results, and bound threads."""
    pyvips.block_untrusted_set(True)
    pyvips.operation_block_set("VipsForeignLoad", True)
    for name in ("Jpeg", "Png", "Webp", "Nsgif", "Tiff", "Heif"):
        pyvips.operation_block_set(f"VipsForeignLoad{name}", False)
    pyvips.cache_set_max(0)
    pyvips.concurrency_set(_THREADS)


def sniff(head: bytes) -> ReadFormat | None:  # noqa: PLR0911 - one per format
    """The format that a file's first 32 bytes say, or None for none that we know."""
    if head.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    if head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return "tiff"
    if head[4:8] == b"ftyp":
        brands = {head[8:12], *(head[i : i + 4] for i in range(16, 32, 4))}
        if brands & {b"avif", b"avis"}:
            return "avif"
        if head[8:12] in _HEIC_BRANDS:
            return "heic"
    return None


@cache
def readable_formats() -> tuple[ReadFormat, ...]:
    """The formats that this machine's libvips can read."""
    return tuple(f.name for f in FORMATS.values() if _can_read(f))


@cache
def writable_formats() -> tuple[str, ...]:
    """The formats that this machine's libvips can write."""
    return tuple(f.name for f in FORMATS.values() if f.saver and _has_operation(f.saver))


def _can_read(f: Format) -> bool:
    if not _has_operation(f.loader):
        return False
    if f.name != "heic":
        return True
    try:
        pyvips.Image.heifload_buffer(_HEIC_SAMPLE).avg()
    except pyvips.Error:
        return False
    return True


def _has_operation(nickname: str) -> bool:
    return bool(pyvips.type_find("VipsOperation", nickname))


def unsupported(why: str) -> UnsupportedMedia:
    """The error for content that no loader reads; it lists what is read."""
    readable = ", ".join(FORMATS[name].content_type for name in readable_formats())
    return UnsupportedMedia(
        "unsupported_media_type", f"The file {why}. Send one of: {readable}.", field="file"
    )


def format_of(source: Path | bytes) -> ReadFormat:
    """The format of a file or of its bytes. Raises `UnsupportedMedia` for anything unreadable."""
    head = read_head(source, 32)
    if not head:
        raise unsupported("is empty")
    name = sniff(head)
    if name is None:
        raise unsupported("is not a picture of a type that is read here")
    if name not in readable_formats():
        raise unsupported(f"is {FORMATS[name].content_type}, which this installation cannot decode")
    return name


def read_head(source: Path | bytes, size_bytes: int) -> bytes:
    """The first bytes of a file or of a buffer."""
    if isinstance(source, bytes):
        return source[:size_bytes]
    with source.open("rb") as file:
        return file.read(size_bytes)


def open_image(source: Path | bytes, name: ReadFormat, **options: float | str) -> pyvips.Image:
    """A lazy libvips image by the one loader of `name`. Raises `pyvips.Error`."""
    loader = FORMATS[name].loader
    if isinstance(source, bytes):
        return getattr(pyvips.Image, f"{loader}_buffer")(source, **options)
    return getattr(pyvips.Image, loader)(str(source), **options)


set_up_libvips()
