"""What sweepers ask before they remove anything: who waits, and who may yet be sent again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from typing import TypeVar

import msgspec

from functions._kit.messages import NO_JSON
from functions._kit.ports import DeadLetters, Stream

M = TypeVar("M", bound=msgspec.Struct)

STEP = 500
"""Objects or letters that are dealt with at a time."""


async def waiting_since(subject: str, stream: Stream, now: datetime) -> datetime:
    """Since when a message on `subject` has waited; `now` where none does."""
    oldest = await stream.oldest(subject)
    return now if oldest is None or oldest.stored_at is None else oldest.stored_at


async def messages_in_letters(
    dead_letters: DeadLetters, function: str, kind: type[M]
) -> AsyncIterator[M]:
    """The messages that `function` could not deal with, but for those that nobody can read."""
    before: int | None = None
    while letters := await dead_letters.page(function=function, before=before, limit=STEP):
        for letter in letters:
            try:
                yield msgspec.json.decode(letter.content.payload, type=kind)
            except NO_JSON:
                continue  # it names nothing
        before = letters[-1].number
