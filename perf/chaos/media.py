"""What is sent: small pictures and a voice of known content, no two pictures the same file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyvips

from gateway.settings import CHECKOUT

DATA = CHECKOUT / "tests" / "data"
RULES = {"labels": ["person", "cup", "cat"], "min_score": 0.33, "cooldown_seconds": 0}
"""Of every camera: two cups (0.53, 0.37), a person (0.73), a cat (0.53), a table (0.29)."""
LABELS = (("cup", "cup"), ("person",), ("cat",), ())
PHOTO_SIZES = ((96, 64), (64, 96), (80, 80), (48, 32))
WORDS = "it was the best of times"
TARGETS = ("wav", "flac", "mp3")
SCALE = 2


@dataclass(frozen=True, slots=True)
class Media:
    """Files in memory."""

    frames: tuple[bytes, ...]
    photos: tuple[bytes, ...]
    voice: bytes

    def frame(self, variant: int, number: int) -> bytes:
        """A frame that shows `LABELS[variant]`, unlike any of another number."""
        return numbered(self.frames[variant], number)

    def photo(self, variant: int, number: int) -> bytes:
        """A photo of `PHOTO_SIZES[variant]`."""
        return numbered(self.photos[variant], number)


def read_media() -> Media:
    """All of it, from the files of the tests."""
    cup = DATA / "coffee.png"
    photos = DATA / "detection"
    return Media(
        frames=(
            jpeg(photos / "coffee.jpg", 160),
            jpeg(photos / "astronaut.jpg", 160),
            jpeg(photos / "chelsea.jpg", 451),
            jpeg(photos / "coffee.jpg", 160, (0, 0, 160, 120)),
        ),
        photos=tuple(jpeg(cup, size[0], (240, 160, *size)) for size in PHOTO_SIZES),
        voice=(DATA / "sounds" / "two_cities.opus").read_bytes(),
    )


def jpeg(file: Path, width: int, crop: tuple[int, int, int, int] | None = None) -> bytes:
    """`file`, or what is of it within `crop` (left, top, width, height), `width` pixels wide."""
    image = pyvips.Image.new_from_file(str(file))
    if crop is not None:
        image = image.crop(*crop)
    small = image.thumbnail_image(width, height=10_000, size="down")
    return bytes(small.write_to_buffer(".jpg", Q=90))


def numbered(picture: bytes, number: int) -> bytes:
    """The same picture as another file: `number` in a JPEG comment (marker FFFE)."""
    text = f"{number:08}".encode()
    return picture[:2] + b"\xff\xfe" + (len(text) + 2).to_bytes(2) + text + picture[2:]
