"""jobs.media.upscale: a photo out of the bucket, through the model in tiles, and back enlarged."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import replace
from pathlib import Path, PurePosixPath

from functions._kit.capabilities import UPSCALE, serve
from functions._kit.consume import Run, consume
from functions._kit.errors import JobFailed, NotFound
from functions._kit.pictures import FORMATS, Picture, WriteFormat, denoise, encode
from functions._kit.policy import Policy
from functions._kit.ports import Inference, KeyValue, Limits, Objects, PictureDecoder, ServedModel
from functions.media.contracts import MediaJob, MediaResult, result_prefix
from functions.media.upscale.enlarge import Enlarged, enlarge
from functions.media.upscale.formats import check_size, output_format, to_8_bit
from functions.tasks.contracts import band

TRITON_PRIORITY = {"high": 1, "normal": 2, "low": 3}
DECODED, DENOISED, ENLARGED, ENCODED = 0.02, 0.05, 0.94, 0.98
"""Progress after each step; a photo spends nearly all its time in the model."""


@consume(
    "jobs.media.upscale",
    policy=Policy(concurrency=2, express=1, bands=True, timeout_s=6 * 3600.0, attempts=3),
)
async def upscale(
    job: MediaJob,
    run: Run,
    objects: Objects,
    pictures: PictureDecoder,
    inference: Inference,
    values: KeyValue,
    limits: Limits,
) -> MediaResult:
    """Decode, denoise, enlarge, encode. Two at once, so that one decodes while another infers.

    The result's key derives from the task's id: a second run overwrites the first one's.
    """
    source = run.scratch / "source"
    await objects.download(job.file_path, source, limit_bytes=limits.max_upload_bytes)
    picture = await pictures.decode(source, run.scratch / "pixels", max_pixels=limits.max_pixels)
    wanted = output_format(picture.info.format, job.format, lossless=job.lossless)
    size = (picture.info.width * job.scale_factor, picture.info.height * job.scale_factor)
    check_size(wanted, size)
    run.progress(DECODED)
    picture = await _denoised(picture, job.denoise_strength, run)

    async def work(served: ServedModel) -> tuple[ServedModel, Enlarged]:
        model, pixels = await _face(job, served, picture, wanted, inference)
        return served, await enlarge(
            pixels,
            model,
            inference,
            scratch=run.scratch,
            priority=TRITON_PRIORITY[band(job.task.priority)],
            on_progress=lambda done: run.progress(DENOISED + (ENLARGED - DENOISED) * done),
        )

    model, enlarged = await serve(job.capability, inference, values, work, unit=job.task.task_id)
    file = run.scratch / "result"
    written = await asyncio.to_thread(
        encode,
        enlarged.pixels,
        enlarged.alpha,
        file,
        format=wanted,
        quality=job.quality,
        metadata=picture.metadata,
        keep_metadata=job.keep_metadata,
        grey=picture.grey,
        lossless=job.lossless,
        size=size,
    )
    run.progress(ENCODED)
    key = _result_key(job, FORMATS[wanted].suffix)
    await objects.upload(file, key, written.content_type)
    return MediaResult(
        file_path=key,
        width=written.width,
        height=written.height,
        size=written.size,
        content_type=written.content_type,
        sha256=await asyncio.to_thread(_sha256, file),
        model=model.name,
        model_version=model.version,
    )


async def _denoised(picture: Picture, strength: float, run: Run) -> Picture:
    if strength == 0:
        return picture
    loop = asyncio.get_running_loop()

    def tell(done: float) -> None:
        progress = DECODED + (DENOISED - DECODED) * done
        loop.call_soon_threadsafe(run.progress, progress)

    pixels = await asyncio.to_thread(denoise, picture.pixels, strength, on_progress=tell)
    return replace(picture, pixels=pixels)


async def _face(
    job: MediaJob,
    served: ServedModel,
    picture: Picture,
    wanted: WriteFormat,
    inference: Inference,
) -> tuple[ServedModel, Picture]:
    """The face of the served model for this picture, and the picture in the depth that it takes.

    16 bits stay where the file can hold them and the model has a variant for them, of the same
    version or else its oldest.
    """
    model = served
    if picture.pixels.dtype.itemsize == 2 and wanted in {"png", "tiff"}:
        model = await _sixteen_bits(served, inference) or served
    if model is served:
        picture = to_8_bit(picture)
    scale = int(model.parameters["scale"])
    if job.scale_factor > scale:
        asked = job.capability.removeprefix(UPSCALE)
        raise JobFailed(
            "scale_not_supported",
            f"{asked} enlarges by {scale} at most; ask for a smaller scale_factor or another model",
        )
    return model, picture


async def _sixteen_bits(served: ServedModel, inference: Inference) -> ServedModel | None:
    for version in (served.version, None):
        try:
            return await inference.model(f"{served.name}-16bit", version)
        except NotFound:  # a custom model works in 8 bits
            continue
    return None


def _result_key(job: MediaJob, suffix: str) -> str:
    stem = PurePosixPath(job.file_path).stem
    return f"{result_prefix(job.task.task_id)}{stem}_x{job.scale_factor}{suffix}"


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
