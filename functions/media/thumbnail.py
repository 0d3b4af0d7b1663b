"""jobs.media.thumbnail: small copies of a result, for lists and previews."""

from __future__ import annotations

from typing import Any

from functions._kit.consume import Run, consume
from functions._kit.policy import Policy
from functions._kit.ports import Objects, PictureDecoder
from functions.media.contracts import MediaJob, Thumbnail, result_prefix

SIDES = (320, 1280)
"""Longest sides in pixels: a list's picture, and a screen's preview."""
MAX_RESULT_PIXELS = 16 * 100_000_000
"""A result has at most 16 times the pixels of the largest photo that is taken."""


@consume(
    "jobs.media.thumbnail",
    policy=Policy(concurrency=2, bands=True, timeout_s=600.0, attempts=3),
)
async def thumbnail(
    job: MediaJob, run: Run, objects: Objects, pictures: PictureDecoder
) -> dict[str, list[Any]]:
    """Read the result at reduced size and store a JPEG for each of `SIDES` that is smaller."""
    source = run.scratch / "result"
    await objects.download(job.result["file_path"], source)
    longest = max(job.result["width"], job.result["height"])
    made: list[Thumbnail] = []
    for side in [s for s in SIDES if s < longest] or [longest]:
        file = run.scratch / f"thumbnail-{side}"
        info = await pictures.thumbnail(
            source, file, longest_side=side, max_pixels=MAX_RESULT_PIXELS
        )
        key = f"{result_prefix(job.task.task_id)}thumbnail_{side}.jpg"
        await objects.upload(file, key, info.content_type)
        made.append(Thumbnail(file_path=key, width=info.width, height=info.height, size=info.size))
        run.progress(len(made) / len(SIDES))
    return {"thumbnails": made}
