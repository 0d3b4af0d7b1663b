"""What the audio functions share: transcripts, the job of a long recording, keys in the bucket."""

from __future__ import annotations

from functions._kit.messages import Message
from functions._kit.ports import AudioTarget
from functions.tasks.contracts import Job, Step

WORKFLOW = "audio-transcription"
TRANSCRIBE = Step(function="audio.transcribe", share=0.97)
PROMPT = Step(function="audio.prompt", share=0.03)

LONGEST_AT_ONCE_S = 60.5
"""Longer recordings become tasks: a minute, and what codecs add to their last frame."""

CONVERTED_PREFIX = "audio/converted/"
INCOMING_PREFIX = "audio/incoming/"


class Segment(Message, frozen=True, kw_only=True):
    """Words between two silences. Times in seconds from the beginning of the recording."""

    start: float
    end: float
    text: str
    tokens: tuple[int, ...]
    avg_logprob: float
    """Mean natural logarithm of the tokens' probabilities."""
    no_speech_prob: float
    """1 minus the mean probability of speech."""


class Transcript(Message, frozen=True, kw_only=True):
    """What was said in a recording."""

    text: str
    language: str
    """ISO 639-1."""
    duration: float
    segments: tuple[Segment, ...]
    model: str
    model_version: str


class AudioJob(Job, frozen=True, kw_only=True):
    """A recording in the bucket that shall be transcribed."""

    source_key: str
    """The recording as it came; its owner is the task, which removes it at its end."""
    user_prompt: str | None = None


class SubtitleFile(Message, frozen=True, kw_only=True):
    """The transcript as subtitles."""

    file_path: str
    content_type: str


class TranscriptResult(Message, frozen=True, kw_only=True):
    """The result of `audio.transcribe`; `file_path` is the transcript as JSON."""

    transcription: str
    language: str
    duration: float
    file_path: str
    subtitles: tuple[SubtitleFile, ...]
    model: str
    model_version: str


class TranslationError(Message, frozen=True, kw_only=True):
    """Why there is no translation."""

    code: str
    message: str


def converted_key(sha256: str, target: AudioTarget) -> str:
    """Where the conversion of the bytes with this checksum lies."""
    return f"{CONVERTED_PREFIX}{sha256}/{target.name}"


def incoming_key(task_id: str) -> str:
    """Where the recording of a task waits."""
    return f"{INCOMING_PREFIX}{task_id}"


def transcript_key(task_id: str, suffix: str) -> str:
    """Where a task's transcript lies: .json, .srt or .vtt."""
    return f"results/{task_id}/transcript{suffix}"
