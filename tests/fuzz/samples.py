"""Small good files of every kind that is read, which fuzzing makes bad ones of."""

from __future__ import annotations

import io
import zlib
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyvips

from tests.fuzz.mutate import png, profile_bomb, text_bomb

PHOTO = Path(__file__).parents[1] / "data" / "pictures" / "chelsea.png"
SOUNDS = {
    "opus": ("ogg", "libopus", 48_000),
    "vorbis": ("ogg", "vorbis", 44_100),
    "webm": ("webm", "libopus", 48_000),
    "mp3": ("mp3", "libmp3lame", 44_100),
    "m4a": ("ipod", "aac", 44_100),
    "aac": ("adts", "aac", 44_100),
    "flac": ("flac", "flac", 44_100),
    "wav": ("wav", "pcm_s16le", 16_000),
    "aiff": ("aiff", "pcm_s16be", 16_000),
    "mkv": ("matroska", "flac", 44_100),
}


def pictures() -> dict[str, bytes]:
    """By a name that tells what is special about it."""
    photo = pyvips.Image.pngload(str(PHOTO)).crop(30, 30, 64, 48).copy_memory()
    described = photo.copy()
    described.set_type(pyvips.GValue.gint_type, "orientation", 6)
    described.set_type(pyvips.GValue.gstr_type, "exif-ifd0-ImageDescription", "a cat")
    profiled = described.icc_transform("srgb", input_profile="srgb")
    seen = photo.bandjoin(photo[0]).copy(interpretation="srgb")
    deep = (photo.cast("ushort") * 257).cast("ushort").copy(interpretation="rgb16")
    film = photo.join(photo.invert(), "vertical").copy()
    film.set_type(pyvips.GValue.gint_type, "page-height", photo.height)
    film.set_type(pyvips.GValue.array_int_type, "delay", [100, 100])
    wanted: dict[str, tuple[pyvips.Image, str, dict[str, Any]]] = {
        "jpeg": (profiled, ".jpg", {"Q": 80}),
        "jpeg-progressive": (described, ".jpg", {"interlace": True}),
        "jpeg-cmyk": (photo.colourspace("cmyk"), ".jpg", {}),
        "png": (profiled, ".png", {}),
        "png-interlaced": (seen, ".png", {"interlace": True}),
        "png-deep": (deep, ".png", {}),
        "png-palette": (photo, ".png", {"palette": True}),
        "webp": (described, ".webp", {"Q": 80}),
        "webp-lossless": (seen, ".webp", {"lossless": True}),
        "webp-film": (film, ".webp", {}),
        "gif": (photo, ".gif", {}),
        "gif-film": (film, ".gif", {}),
        "tiff-lzw": (profiled, ".tif", {"compression": "lzw"}),
        "tiff-jpeg": (photo, ".tif", {"compression": "jpeg"}),
        "tiff-tiled": (deep, ".tif", {"tile": True, "pyramid": True, "compression": "deflate"}),
        "avif": (described, ".avif", {"Q": 60, "effort": 0}),
        "avif-deep": (deep, ".avif", {"bitdepth": 12, "effort": 0}),
    }
    return {
        name: bytes(image.write_to_buffer(suffix, **options))
        for name, (image, suffix, options) in wanted.items()
    }


def bombs() -> dict[str, bytes]:
    """Small files that would become large ones."""
    zeros = zlib.compress(bytes(50_000_000), 9)
    grey = zlib.compress(bytes(65 * 64))
    return {
        "huge": png(65_500, 65_500, zeros),
        "wide": png(0x7FFFFFFF, 1, zeros),
        "more than it says": png(64, 64, zeros),
        "text": png(64, 64, grey, more=text_bomb(100_000_000)),
        "profile": png(64, 64, grey, more=profile_bomb(100_000_000)),
        "texts": png(64, 64, grey, more=text_bomb(8_000_000) * 20),
    }


def sounds() -> dict[str, bytes]:
    """A third of a second in each container and codec."""
    made: dict[str, bytes] = {}
    for name, (container, codec, rate) in SOUNDS.items():
        file = io.BytesIO()
        count = rate // 3
        tone = (np.sin(np.arange(count) / 9) * 9_000).astype(np.int16)[None]
        with av.open(file, "w", format=container) as out:
            options = {"strict": "experimental"}
            layout = "stereo" if codec == "vorbis" else "mono"
            stream: Any = out.add_stream(codec, rate=rate, layout=layout, options=options)
            frame = av.AudioFrame.from_ndarray(tone, "s16", "mono")
            frame.sample_rate, frame.pts = rate, 0
            resampler = av.AudioResampler(stream.codec_context.format, layout, rate)
            for part in resampler.resample(frame):
                out.mux(stream.encode(part))
            out.mux(stream.encode(None))
        made[name] = file.getvalue()
    return made
