"""What is said over the pipes between this process and a converter: JSON, one message a line."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from functions._kit.errors import RequestError, Unprocessable, UnsupportedMedia
from functions._kit.ports.audio import AudioTarget, AudioTooLong, Sound


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """One conversion."""

    source: str
    into: str
    target: AudioTarget
    longest_s: float


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The child has started and takes work."""


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    """More is written; a child that says nothing for long is stuck."""


class Done(msgspec.Struct, frozen=True, tag="done"):
    """The conversion is written."""

    sound: Sound


class Refused(msgspec.Struct, frozen=True, kw_only=True, tag="refused"):
    """The file cannot be converted: an error of `ERRORS`."""

    kind: str
    code: str
    message: str
    field: str | None
    duration_s: float | None = None
    """Of `AudioTooLong`."""


class Stopped(msgspec.Struct, frozen=True, tag="stopped"):
    """The conversion was given up, as asked for by a signal."""


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """Our own fault, or the machine's: `errno` where the system refused something."""

    message: str
    errno: int | None = None


Answer: TypeAlias = Ready | Progress | Done | Refused | Stopped | Failed

ERRORS: dict[str, type[RequestError]] = {
    kind.__name__: kind for kind in (AudioTooLong, Unprocessable, UnsupportedMedia)
}


_encoder = msgspec.json.Encoder()
_answers: msgspec.json.Decoder[Answer] = msgspec.json.Decoder(Answer)
_works = msgspec.json.Decoder(Work)


def encode(message: Work | Answer) -> bytes:
    """A line."""
    return _encoder.encode(message) + b"\n"


def decode_work(line: bytes) -> Work:
    """What the parent wants."""
    return _works.decode(line)


def decode_answer(line: bytes) -> Answer:
    """What a child says."""
    return _answers.decode(line)


def refusal(error: RequestError) -> Refused:
    """The error as a message."""
    return Refused(
        kind=type(error).__name__,
        code=error.code,
        message=error.message,
        field=error.field,
        duration_s=error.duration_s if isinstance(error, AudioTooLong) else None,
    )


def raised(refused: Refused) -> RequestError:
    """The message as an error."""
    if refused.duration_s is not None:
        return AudioTooLong(
            refused.code, refused.message, field=refused.field, duration_s=refused.duration_s
        )
    return ERRORS[refused.kind](refused.code, refused.message, field=refused.field)
