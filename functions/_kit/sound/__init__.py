"""Sound of any container and codec into WAV, FLAC or MP3. Synchronous, and bounded in memory."""

from functions._kit.sound.converter import convert
from functions._kit.sound.queue import ConversionQueue, size_of
from functions._kit.sound.targets import check_target

__all__ = ["ConversionQueue", "check_target", "convert", "size_of"]
