"""A language model that answers in text, behind the operator's limits."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from functions._kit.errors import NereidError


class LanguageModelError(NereidError):
    """No answer from the language model.

    `language_model_not_set`, `language_model_quota_spent` (until `usage().resets_at`),
    `language_model_refused` (the request itself), or, where `again` is true and a later try may
    help, `language_model_failed` and `language_model_busy`.
    """

    def __init__(self, code: str, message: str, *, again: bool = False) -> None:
        super().__init__(code, message)
        self.again = again


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageModelUsage:
    """What has been asked of the model today by all processes, and what may be."""

    model: str | None
    """None where no model is set."""
    requests_today: int
    requests_per_day: int | None
    resets_at: datetime
    """When `requests_today` begins at 0 again: midnight, UTC."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turns:
    """Requests of this process to an outside API."""

    at_once: int
    """So many may be out."""
    active: int
    """Have their turn, or are being counted in."""
    waiting: int
    """Wait for one of `at_once` to end."""


class LanguageModel(Protocol):
    """Any service that speaks OpenAI's chat completions."""

    async def complete(self, instructions: str, text: str) -> str:
        """The model's answer to `text` under `instructions`.

        Waits for its turn within the limits and tries again what may yet succeed. Raises
        `LanguageModelError`, and nothing else.
        """
        ...

    def turns(self) -> Turns:
        """What this process asks of it now."""
        ...

    async def usage(self) -> LanguageModelUsage:
        """How much of the quota is spent. Raises `Unavailable` where nobody can say."""
        ...
