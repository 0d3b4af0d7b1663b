"""Pictures: what they are, their pixels, and back into files. All synchronous and thread-safe."""

from functions._kit.pictures.decoder import Picture, decode
from functions._kit.pictures.denoiser import denoise
from functions._kit.pictures.encoder import EncodedInfo, encode
from functions._kit.pictures.formats import (
    FORMATS,
    ReadFormat,
    WriteFormat,
    readable_formats,
    sniff,
    writable_formats,
)
from functions._kit.pictures.header import MAX_PIXELS, PictureInfo, crashed, probe, too_costly
from functions._kit.pictures.letterbox import Letterboxed, check_not_too_small, letterbox
from functions._kit.pictures.metadata import Metadata
from functions._kit.pictures.noise import estimate_noise
from functions._kit.pictures.resizer import shrink
from functions._kit.pictures.thumbnails import thumbnail

__all__ = [
    "FORMATS",
    "MAX_PIXELS",
    "EncodedInfo",
    "Letterboxed",
    "Metadata",
    "Picture",
    "PictureInfo",
    "ReadFormat",
    "WriteFormat",
    "check_not_too_small",
    "crashed",
    "decode",
    "denoise",
    "encode",
    "estimate_noise",
    "letterbox",
    "probe",
    "readable_formats",
    "shrink",
    "sniff",
    "thumbnail",
    "too_costly",
    "writable_formats",
]
