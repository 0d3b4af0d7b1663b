"""What is said over the pipes between this process and a child: JSON, one message a line."""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec

from functions._kit.errors import (
    JobFailed,
    NereidError,
    RequestError,
    Unprocessable,
    UnsupportedMedia,
)
from functions._kit.ports.audio import AudioTarget, AudioTooLong


class Work(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Something to do; each kind is a class of its own."""


class Convert(Work, frozen=True, kw_only=True):
    """Sound of the file `source` into the file `into`."""

    source: str
    into: str
    target: AudioTarget
    longest_s: float


class Probe(Work, frozen=True, kw_only=True):
    """A picture's header."""

    source: str
    max_pixels: int


class Decode(Work, frozen=True, kw_only=True):
    """A picture's pixels into the file `into`."""

    source: str
    into: str
    max_pixels: int


class Fit(Work, frozen=True, kw_only=True):
    """The picture in the first `size` bytes of the arena, inside a rectangle."""

    size: int
    width: int
    height: int
    multiple_of: int
    max_pixels: int


class Shrink(Work, frozen=True, kw_only=True):
    """A small version of a picture, as the file `into`."""

    source: str
    into: str
    longest_side: int
    max_pixels: int


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The child has started and takes work."""


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    """More is done; a child that says nothing for long is stuck."""


class Done(msgspec.Struct, frozen=True, tag="done"):
    """The work is done. `size` bytes of the answer lie in the arena."""

    result: Any
    size: int = 0


class Refused(msgspec.Struct, frozen=True, kw_only=True, tag="refused"):
    """The file is at fault: an error of `ERRORS`."""

    kind: str
    code: str
    message: str
    field: str | None = None
    duration_s: float | None = None
    """Of `AudioTooLong`."""


class Stopped(msgspec.Struct, frozen=True, tag="stopped"):
    """The work was given up, as asked for by a signal."""


class Costly(msgspec.Struct, frozen=True, tag="costly"):
    """The work would take more memory than it may."""


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """Our own fault, or the machine's: `errno` where the system refused something."""

    message: str
    errno: int | None = None


Answer: TypeAlias = Ready | Progress | Done | Refused | Stopped | Costly | Failed
AnyWork: TypeAlias = Convert | Probe | Decode | Fit | Shrink

ERRORS: dict[str, type[RequestError]] = {
    kind.__name__: kind for kind in (AudioTooLong, Unprocessable, UnsupportedMedia)
}


_encoder = msgspec.json.Encoder()
_answers: msgspec.json.Decoder[Answer] = msgspec.json.Decoder(Answer)
_works: msgspec.json.Decoder[AnyWork] = msgspec.json.Decoder(AnyWork)


def encode(message: Work | Answer) -> bytes:
    """A line."""
    return _encoder.encode(message) + b"\n"


def decode_work(line: bytes) -> AnyWork:
    """What the parent wants."""
    return _works.decode(line)


def decode_answer(line: bytes) -> Answer:
    """What a child says."""
    return _answers.decode(line)


def refusal(error: RequestError | JobFailed) -> Refused:
    """The error as a message."""
    return Refused(
        kind=type(error).__name__,
        code=error.code,
        message=error.message,
        field=error.field if isinstance(error, RequestError) else None,
        duration_s=error.duration_s if isinstance(error, AudioTooLong) else None,
    )


def raised(refused: Refused) -> NereidError:
    """The message as an error."""
    if refused.kind == JobFailed.__name__:
        return JobFailed(refused.code, refused.message)
    if refused.duration_s is not None:
        return AudioTooLong(
            refused.code, refused.message, field=refused.field, duration_s=refused.duration_s
        )
    return ERRORS[refused.kind](refused.code, refused.message, field=refused.field)
