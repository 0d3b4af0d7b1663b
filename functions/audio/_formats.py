"""A transcript in the forms that OpenAI's API and subtitle players know."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator

from functions._kit.messages import Answer
from functions.audio.contracts import Segment, Transcript

SRT_TYPE = "application/x-subrip; charset=utf-8"
VTT_TYPE = "text/vtt; charset=utf-8"

_SENTENCE_END = re.compile(r"(?<=[.!?\u2026])\s+")

LANGUAGES = {
    "ar": "arabic", "de": "german", "en": "english", "es": "spanish", "fr": "french",
    "hi": "hindi", "it": "italian", "ja": "japanese", "ko": "korean", "nl": "dutch",
    "pl": "polish", "pt": "portuguese", "ru": "russian", "tr": "turkish", "uk": "ukrainian",
    "vi": "vietnamese", "zh": "chinese",
}  # fmt: skip
"""OpenAI names languages in English; those that speech models of this size are published for."""


class VerboseSegment(Answer, frozen=True, kw_only=True):
    """A segment with all that OpenAI's API tells of one. Times in seconds."""

    id: int
    seek: int
    """Where the model began to listen, in hundredths of a second, as Whisper counts."""
    start: float
    end: float
    text: str
    tokens: tuple[int, ...]
    temperature: float
    avg_logprob: float
    compression_ratio: float
    """Far above 2 where a text repeats itself."""
    no_speech_prob: float


class VerboseTranscription(Answer, frozen=True, kw_only=True):
    """A transcript with its segments, as `response_format=verbose_json`."""

    task: str
    language: str
    duration: float
    text: str
    segments: tuple[VerboseSegment, ...]


def verbose(transcript: Transcript) -> VerboseTranscription:
    """The transcript as `verbose_json`."""
    return VerboseTranscription(
        task="transcribe",
        language=LANGUAGES.get(transcript.language, transcript.language),
        duration=transcript.duration,
        text=transcript.text,
        segments=tuple(_verbose(i, segment) for i, segment in enumerate(transcript.segments)),
    )


def srt(transcript: Transcript) -> str:
    """The transcript as SubRip subtitles, a sentence each; what has no words is left out."""
    cues = []
    for number, (start, end, text) in enumerate(_cues(transcript), 1):
        # SubRip has no way to escape an arrow; Whisper writes it so, too
        words = text.replace("-->", "->")
        cues.append(f"{number}\n{_time(start, ',')} --> {_time(end, ',')}\n{words}\n")
    return "\n".join(cues)


def vtt(transcript: Transcript) -> str:
    """The transcript as WebVTT subtitles, a sentence each; what has no words is left out."""
    cues = ["WEBVTT\n"]
    for start, end, text in _cues(transcript):
        words = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        cues.append(f"{_time(start, '.')} --> {_time(end, '.')}\n{words}\n")
    return "\n".join(cues)


def compression_ratio(text: str) -> float:
    """The text's bytes to those of its zlib compression, as Whisper computes it; 0 for none."""
    data = text.encode()
    return len(data) / len(zlib.compress(data))


def _verbose(number: int, segment: Segment) -> VerboseSegment:
    return VerboseSegment(
        id=number,
        seek=round(segment.start * 100),
        start=segment.start,
        end=segment.end,
        text=segment.text,
        tokens=segment.tokens,
        temperature=0.0,
        avg_logprob=segment.avg_logprob,
        compression_ratio=round(compression_ratio(segment.text), 4),
        no_speech_prob=segment.no_speech_prob,
    )


def _cues(transcript: Transcript) -> Iterator[tuple[int, int, str]]:
    """Start and end in milliseconds, and a sentence: on one line, for an empty one ends the cue.

    The model tells no times within a segment, so its sentences share them by their letters.
    """
    for segment in transcript.segments:
        text = " ".join(segment.text.split())
        sentences = _SENTENCE_END.split(text) if text else []
        letters = sum(map(len, sentences))
        spoken = 0
        for sentence in sentences:
            start = segment.start + (segment.end - segment.start) * spoken / letters
            spoken += len(sentence)
            end = segment.start + (segment.end - segment.start) * spoken / letters
            first = round(start * 1000)
            yield first, max(first + 1, round(end * 1000)), sentence


def _time(milliseconds: int, point: str) -> str:
    seconds, rest = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02}{point}{rest:03}"
