"""What the media functions share: workflows, the job, its result, keys in the bucket."""

from __future__ import annotations

from typing import Literal

from functions._kit.messages import Message
from functions.tasks.contracts import Job, Step

Format = Literal["jpeg", "png", "webp", "avif"]

UPSCALE = Step(function="media.upscale", share=0.97)
THUMBNAIL = Step(function="media.thumbnail", share=0.03)

WORKFLOWS: dict[str, tuple[Step, ...]] = {
    "nas-photo-processing": (UPSCALE, THUMBNAIL),
    "professional-photo-processing": (UPSCALE, THUMBNAIL),
}
COMING_WORKFLOWS = ("document-processing-pipeline", "video-thumbnail-generation")

PROFESSIONAL = "upscale.realesrgan-x4plus"
NAS = {1: "upscale.x2", 2: "upscale.x2", 3: "upscale.x3", 4: "upscale.x4"}
"""Capabilities by scale. By default the best family that answers in reasonable time on a CPU serves
them: about 0.6 M parameters, against 16.7 M of x4plus, which takes some 27 times as long."""

PUBLISHED_SCALES = {
    "realesr-animevideov3-x2": 2,
    "realesr-animevideov3-x3": 3,
    "realesr-animevideov3-x4": 4,
    "realesrgan-x4plus": 4,
    "realesrgan-x4plus-anime": 4,
}


class MediaJob(Job, frozen=True, kw_only=True):
    """One photo on its way through the steps of a workflow."""

    file_path: str
    capability: str
    """`upscale.x2` and the like, or `upscale.NAME` for the model that the caller named."""
    scale_factor: int
    denoise_strength: float
    format: Format | None
    quality: int
    keep_metadata: bool
    lossless: bool


class Thumbnail(Message, frozen=True, kw_only=True):
    """A small copy of a result."""

    file_path: str
    width: int
    height: int
    size: int


class MediaResult(Message, frozen=True, kw_only=True):
    """What a finished task has made."""

    file_path: str
    width: int
    height: int
    size: int
    content_type: str
    sha256: str
    model: str
    model_version: str


def result_prefix(task_id: str) -> str:
    """Where a task's results lie; a second run overwrites the first one's."""
    return f"results/{task_id}/"
