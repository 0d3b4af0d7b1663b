"""What the alert functions share: frames, rules, alerts, counts, subjects and keys."""

from __future__ import annotations

import hashlib
import re
import uuid
from datetime import UTC, datetime
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from functions._kit.messages import Answer, Message, Word

CAMERAS = "cameras"
"""Bucket of the rules, by camera."""
COOLDOWNS = "cooldowns"
"""Bucket of the last alert of each camera, label and zone."""
FRAME_PREFIX = "frames/"
"""Frames that came over HTTP; they are ours to remove."""

PEOPLE_VEHICLES_ANIMALS = (
    "person", "bicycle", "car", "motorcycle", "bus", "truck", "boat",
    "bird", "cat", "dog", "horse", "sheep", "cow", "bear",
)  # fmt: skip
"""What a camera without rules reports."""

EARLIEST, LATEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)
"""Of the moments at which a frame may have been captured."""

_CAMERA = re.compile(r"[A-Za-z0-9_-]{1,64}")

CameraId = Annotated[
    str, Meta(pattern=rf"^{_CAMERA.pattern}$(?!\n)", description="letters, digits, - _")
]
Moment = Annotated[datetime, Meta(tz=True)]
Fraction = Annotated[float, Meta(ge=0, le=1)]


class Frame(Message, frozen=True, kw_only=True):
    """A picture in the bucket, on `frames.<camera_id>`.

    `captured_at` is the message's arrival where it is left out. `client_id` is set by the
    gateway: a key below `uploads/<client>/` is taken from that client alone.
    """

    key: str
    captured_at: Moment | None = None
    client_id: str | None = None


class Box(Message, frozen=True, kw_only=True):
    """Where an object is: its upper left corner and size, as fractions of the picture."""

    x: float
    y: float
    width: float
    height: float


class Alert(Message, frozen=True, kw_only=True):
    """An object that a camera's rules make an alert: a fact, on `events.alert.<camera_id>`.

    The same fact with `image_key` set follows on `events.alert.<camera_id>.image` once the
    picture has been kept for as long as the alert is.
    """

    alert_id: Word
    camera_id: Word
    label: str
    score: float
    box: Box
    zone: str | None = None
    captured_at: Moment
    created_at: Moment
    model: str
    model_version: str
    frame_key: str
    frame_bytes: int | None = None
    """Size of the frame, and so of its image."""
    image_key: str | None = None


class AlertRow(Message, frozen=True, kw_only=True):
    """An alert as the database has it."""

    alert: Alert
    reviewed: bool = False


class Zone(Answer, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of the picture: a polygon of (x, y), as fractions from the upper left corner."""

    name: Annotated[str, Meta(min_length=1, max_length=64)]
    polygon: Annotated[list[tuple[Fraction, Fraction]], Meta(min_length=3, max_length=64)]


class Rules(Answer, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What becomes an alert. What is left out has its default."""

    labels: Annotated[list[str], Meta(max_length=1000)] = msgspec.field(
        default_factory=lambda: list(PEOPLE_VEHICLES_ANIMALS)
    )
    min_score: Fraction = 0.5
    zones: Annotated[list[Zone], Meta(max_length=64)] = msgspec.field(default_factory=list)
    """An object counts by the middle of its lower edge; no zones are the whole picture."""
    cooldown_seconds: Annotated[float, Meta(ge=0, le=86_400)] = 10.0
    """Quiet after an alert of the same label in the same zone; 0 makes every object an alert."""
    retention_days: Annotated[float, Meta(gt=0, le=36_500)] = 30.0
    backlog: Literal["all", "latest"] = "all"
    """Whether every frame is looked at, or only fresh ones."""
    max_waiting: Annotated[int, Meta(ge=1, le=100_000)] = 10
    """With `latest`: older frames are shed, and counted, while more than these wait."""


class KeepJob(Message, frozen=True, kw_only=True):
    """Alerts of one frame whose picture is to be kept, on `jobs.alerts.keep`."""

    alerts: tuple[Alert, ...]
    discard_frame: bool


class DiscardJob(Message, frozen=True, kw_only=True):
    """Objects that nobody needs any more, on `jobs.alerts.discard`."""

    keys: tuple[str, ...]


class Counts(Message, frozen=True, kw_only=True):
    """How often something has happened in one hour of one camera, as one process saw it.

    `count` is the sum since the process began, so the latest message alone says all. Names:
    `frames`, `shed`, `ignored.<label>` (no rule made it an alert), `cooled.<label>` (within the
    cooldown).
    """

    source: str
    camera_id: str
    hour: Moment
    name: str
    count: int


class CountsEvent(Message, frozen=True, kw_only=True):
    """Counts that have changed, on `events.counts`."""

    counts: tuple[Counts, ...]


KEEP_SUBJECT = "jobs.alerts.keep"
DISCARD_SUBJECT = "jobs.alerts.discard"
COUNTS_SUBJECT = "events.counts"


def is_camera_id(text: str) -> bool:
    """Whether `text` can be part of a subject, of a key, and of a URL."""
    return _CAMERA.fullmatch(text) is not None


def frame_subject(camera_id: str) -> str:
    """Where a camera's frames are published."""
    return f"frames.{camera_id}"


def alert_subject(camera_id: str) -> str:
    """Where a camera's alerts are published."""
    return f"events.alert.{camera_id}"


def image_subject(camera_id: str) -> str:
    """Where it is told that an alert's picture has been kept."""
    return f"{alert_subject(camera_id)}.image"


def image_key(alert: Alert) -> str:
    """Where an alert's picture is kept."""
    return f"alerts/{alert.captured_at:%Y-%m-%d}/{alert.camera_id}/{alert.alert_id}.jpg"


def alert_id(camera_id: str, frame: Frame, captured_at: datetime, what: str) -> str:
    """The same id for the same finding in the same frame, however often the frame is looked at.

    Laid out as UUIDv7 (RFC 9562, 5.7): the time of capture in front, and for its random bits a
    digest of camera, frame and `what`, which tells the findings of one frame apart.
    """
    finding = f"{camera_id}\0{frame.key}\0{captured_at.isoformat()}\0{what}"
    digest = hashlib.sha256(finding.encode()).digest()
    milliseconds = int(captured_at.timestamp() * 1000) & ((1 << 48) - 1)
    value = milliseconds << 80 | int.from_bytes(digest[:10])
    value = value & ~(0xF << 76) | 0x7 << 76
    return str(uuid.UUID(int=value & ~(0x3 << 62) | 0x2 << 62))


def cooldown_key(alert: Alert) -> str:
    """The bucket's key for a camera, label and zone; the latter two may be any text."""
    kind = hashlib.sha256(f"{alert.label}\0{alert.zone}".encode()).hexdigest()[:32]
    return f"{alert.camera_id}.{kind}"
