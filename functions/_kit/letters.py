"""Reading dead letters: what the stream DEAD holds, whoever put it there."""

from __future__ import annotations

from datetime import datetime

import msgspec

from functions._kit.messages import NO_JSON
from functions._kit.ports import Letter
from functions.tasks.contracts import DeadLetter

MAX_PAYLOAD_BYTES = 1 << 19
"""A letter keeps so much of its message, so that it fits into a message itself (NATS: 1 MiB)."""

_decode = msgspec.json.Decoder(DeadLetter).decode


def read_letter(number: int, subject: str, data: bytes, stored_at: datetime) -> Letter:
    """The letter in a message on `subject`.

    A message that is no letter is shown as one that came from nowhere, or nobody could remove it.
    """
    try:
        return Letter(number, _decode(data))
    except NO_JSON as error:
        content = DeadLetter(
            subject="",
            function=subject.partition(".")[2],
            code="unreadable_letter",
            message=f"this is no dead letter, and cannot be sent again: {error}",
            attempts=0,
            at=stored_at,
            payload=data,
        )
        return Letter(number, content)


def letter_subject(function: str | None) -> str:
    """Where the letters of `function` lie, or all."""
    return "dead.>" if function is None else f"dead.{function}"
