"""A language model that answers in capitals."""

from __future__ import annotations

import asyncio
from collections import deque
from datetime import timedelta

from functions._kit.errors import Unavailable
from functions._kit.messages import now
from functions._kit.ports import LanguageModelError, LanguageModelUsage, Turns

AT_ONCE = 4
"""What it says of its limit, which it does not keep."""


class FakeLanguageModel:
    """Answers as `OpenAILanguageModel` does, with the text in capitals.

    `model` None stands for one that nobody has set; `failures` are raised first, one a call;
    while `open` is cleared, calls wait in `waiting`.
    """

    def __init__(self, *, model: str | None = "fake-model", per_day: int | None = None) -> None:
        self.model = model
        self.per_day = per_day
        self.sick = False
        self.requests_today = 0
        self.asked: list[tuple[str, str]] = []
        """Instructions and text of each call that went out."""
        self.failures: deque[LanguageModelError] = deque()
        self.open = asyncio.Event()
        self.open.set()
        self.waiting = 0

    async def complete(self, instructions: str, text: str) -> str:
        """See `LanguageModel.complete`."""
        if self.model is None:
            raise LanguageModelError("language_model_not_set", "set NEREID_LLM_URL: it is the fake")
        if self.sick:
            raise LanguageModelError("language_model_busy", "the fake is sick", again=True)
        if self.per_day is not None and self.requests_today >= self.per_day:
            raise LanguageModelError("language_model_quota_spent", "the fake's day is spent")
        self.requests_today += 1
        self.asked.append((instructions, text))
        self.waiting += 1
        try:
            await self.open.wait()
        finally:
            self.waiting -= 1
        if self.failures:
            raise self.failures.popleft()
        return text.upper()

    def turns(self) -> Turns:
        """See `LanguageModel.turns`."""
        return Turns(at_once=AT_ONCE, active=self.waiting, waiting=0)

    async def usage(self) -> LanguageModelUsage:
        """See `LanguageModel.usage`."""
        if self.sick:
            raise Unavailable("queue", "JetStream does not answer: the fake is sick")
        midnight = now().replace(hour=0, minute=0, second=0, microsecond=0)
        return LanguageModelUsage(
            model=self.model,
            requests_today=self.requests_today,
            requests_per_day=self.per_day,
            resets_at=midnight + timedelta(days=1),
        )
