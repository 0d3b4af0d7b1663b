"""What the operator allows, and how all is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol


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


@dataclass(frozen=True, slots=True)
class Probes:
    """The health checks of everything that this process depends on, by name."""

    checks: Mapping[str, Callable[[], Awaitable[bool]]]
    sickness: Callable[[], Mapping[str, str]] = dict
    """What workers are waiting for now, by backend: it answers, and fails what they ask of it."""


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
