"""jobs.audio.transcribe: a long recording out of the bucket, converted, and turned into words."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec

from functions._kit.consume import Run, consume
from functions._kit.policy import Policy
from functions._kit.ports import (
    SPEECH,
    AudioConverter,
    Figures,
    Inference,
    KeyValue,
    Limits,
    Objects,
)
from functions.audio._formats import SRT_TYPE, VTT_TYPE, srt, vtt
from functions.audio._transcriber import transcribe as recognise
from functions.audio.contracts import (
    AudioJob,
    SubtitleFile,
    Transcript,
    TranscriptResult,
    transcript_key,
)
from functions.tasks.contracts import band

TRITON_PRIORITY = {"high": 2, "normal": 3, "low": 3}
"""Priority 1 is kept for whoever waits for an answer."""
CONVERTED, TRANSCRIBED = 0.05, 0.99
"""Progress after each step."""


@consume(
    "jobs.audio.transcribe",
    policy=Policy(concurrency=2, express=1, bands=True, timeout_s=6 * 3600.0, attempts=3),
)
async def transcribe(
    job: AudioJob,
    run: Run,
    objects: Objects,
    inference: Inference,
    converter: AudioConverter,
    values: KeyValue,
    figures: Figures,
    limits: Limits,
) -> TranscriptResult:
    """Convert, transcribe, and store the transcript as JSON and as subtitles.

    The recording stays where it is, for another attempt; `audio.sweep` removes it.
    """
    source, wav = run.scratch / "source", run.scratch / "speech.wav"
    await objects.download(job.source_key, source, limit_bytes=limits.max_upload_bytes)
    await converter.convert(source, wav, SPEECH, longest_s=limits.max_audio_s)
    source.unlink()
    run.progress(CONVERTED)
    transcript = await recognise(
        wav,
        inference,
        values,
        figures,
        priority=TRITON_PRIORITY[band(job.task.priority)],
        on_progress=lambda done: run.progress(CONVERTED + (TRANSCRIBED - CONVERTED) * done),
        unit=job.task.task_id,
    )
    key, subtitles = await _stored(transcript, job.task.task_id, run.scratch, objects)
    return TranscriptResult(
        transcription=transcript.text,
        language=transcript.language,
        duration=transcript.duration,
        file_path=key,
        subtitles=subtitles,
        model=transcript.model,
        model_version=transcript.model_version,
    )


async def _stored(
    transcript: Transcript, task_id: str, scratch: Path, objects: Objects
) -> tuple[str, tuple[SubtitleFile, ...]]:
    """The transcript's key, and its subtitles; a second run overwrites the first one's."""

    async def store(suffix: str, content: bytes, content_type: str) -> str:
        file = scratch / f"transcript{suffix}"
        await asyncio.to_thread(file.write_bytes, content)
        key = transcript_key(task_id, suffix)
        await objects.upload(file, key, content_type)
        return key

    subtitles = (
        SubtitleFile(
            file_path=await store(".srt", srt(transcript).encode(), SRT_TYPE),
            content_type=SRT_TYPE,
        ),
        SubtitleFile(
            file_path=await store(".vtt", vtt(transcript).encode(), VTT_TYPE),
            content_type=VTT_TYPE,
        ),
    )
    key = await store(".json", msgspec.json.encode(transcript), "application/json")
    return key, subtitles
