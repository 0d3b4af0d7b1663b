"""What the operator allows, and how all is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from functions._kit.ports.audio import ConversionFigures


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the operator allows; from the settings."""

    max_upload_bytes: int
    max_pixels: int
    max_frame_bytes: int = 32 << 20
    max_audio_s: float = 4 * 3600.0
    audio_cache_bytes: int = 2 << 30
    audio_cache_lifetime_s: int = 24 * 3600
    allow_private_callbacks: bool
    webhook_secret: bytes
    url_lifetime_s: int = 24 * 3600
    reserved_prefixes: tuple[str, ...] = ()
    """Keys of the bucket that are no files of anybody: models, where they lie in it."""


@dataclass(frozen=True, slots=True)
class Probes:
    """The health checks of everything that this process depends on, by name."""

    checks: Mapping[str, Callable[[], Awaitable[bool]]]
    sickness: Callable[[], Mapping[str, str]] = dict
    """What workers are waiting for now, by backend: it answers, and fails what they ask of it."""
    loading: Callable[[], Mapping[str, str]] = dict
    """What is still on its way after a start, by part, with a sentence; work for it waits."""


class Tally(Protocol):
    """Counts what happens to a camera's frames; the sums are told every few seconds."""

    def add(self, camera_id: str, name: str, count: int = 1) -> None:
        """Count `name` once more, in this hour. See `Counts` for the names."""
        ...

    def in_hand(self, camera_id: str) -> AbstractContextManager[None]:
        """Count a frame as being worked on, within the block."""
        ...

    def frames_in_hand(self, camera_id: str) -> int:
        """How many frames of the camera this process works on now."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TranscriptionFigures:
    """Transcriptions of one process since its start."""

    active: int = 0
    completed: int = 0
    audio_s: float = 0.0
    """Sound that the completed ones have heard."""
    total_time_s: float = 0.0
    """Of the completed ones, from their start to their end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a process and its children take, and how busy their machine is."""

    cpu_percent: float = 0.0
    """Of one core, over the last seconds; two busy cores are 200."""
    memory_bytes: int = 0
    """Resident, the children's included."""
    machine_cpu_percent: float = 0.0
    """Of all cores, over the last seconds; 100 is all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessFigures:
    """What one process does with sound, since its start."""

    process_id: str
    name: str
    role: str
    """serve or work."""
    since: datetime
    conversions: ConversionFigures
    transcriptions: TranscriptionFigures
    usage: Usage


class Figures(Protocol):
    """Counts what this process does with sound, and tells all others."""

    def transcribing(self) -> AbstractContextManager[None]:
        """Count a transcription as active, within the block."""
        ...

    def add_transcription(self, audio_s: float, time_s: float) -> None:
        """Count a completed transcription of `audio_s` seconds of sound that took `time_s`."""
        ...

    def all(self) -> list[ProcessFigures]:
        """This process first, as it is now; then the others, as they were a second ago.

        A process that ends is no longer among them, and neither are its counts.
        """
        ...


METRICS_MEDIA_TYPE = "text/plain; version=0.0.4"
"""Prometheus' text format, by its version; in UTF-8."""


class Metrics(Protocol):
    """What this process tells Prometheus."""

    async def exposition(self) -> str:
        """All figures as they are now, in Prometheus' text format.

        A server that does not answer costs a few seconds at most; its figures are left out then.
        """
        ...
