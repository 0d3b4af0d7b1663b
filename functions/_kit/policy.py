"""How a handler may run. It stands on the handler and is refused at import when it is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SCOPES = frozenset(
    {
        "media:write", "media:read", "alerts:read", "frames:write", "audio:write",
        "models:read", "models:write", "system:read", "system:write",
    }
)  # fmt: skip


LONGEST_EVERY_S = 3000.0
"""Within JOBS' memory of message ids, by which workers agree on one tick."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpPolicy:
    """Who may call an HTTP function, how many at once, and for how long.

    `scope` has no default: None, which makes the function public, must be written down; of
    several, one is enough. A request beyond `concurrency` is
    answered at once with `busy_status`: 503, or 429 where callers shall know that it is they who
    are too many.
    """

    scope: str | tuple[str, ...] | None
    concurrency: int = 512
    busy_status: Literal[429, 503] = 503
    timeout_s: float | None = 30.0

    def __post_init__(self) -> None:
        if self.scope is not None and not self.any_of:
            raise ValueError("name a scope, or None for a public function")
        for scope in self.any_of:
            if scope not in SCOPES:
                raise ValueError(f"unknown scope {scope!r}; known: {', '.join(sorted(SCOPES))}")
        if self.concurrency < 1:
            raise ValueError("concurrency must be at least 1")
        if self.timeout_s is not None and self.timeout_s <= 0:
            raise ValueError("timeout_s must be above 0, or None for streams")

    @property
    def any_of(self) -> tuple[str, ...]:
        """The scopes of which a caller needs one; none for a public function."""
        return (self.scope,) if isinstance(self.scope, str) else self.scope or ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How a NATS function takes its messages.

    concurrency    messages handled at once by one process
    express        further slots that only jobs of high priority may use
    timeout_s      longest run of one attempt
    attempts       runs that a job may spend before it goes to the dead letters
    backoff_s      waits before the second, third, ... attempt (the last one repeats)
    ack_wait_s     a lease: a worker silent for so long has lost its job to another
    bands          whether the subject ends in .high, .normal, .low
    batch          messages handed to one call; above 1 the handler takes a list
    linger_s       how long a batch waits to fill after its first message
    every_s        runs by the clock, so often, on one worker of all
    """

    concurrency: int = 1
    express: int = 0
    timeout_s: float = 60.0
    attempts: int = 3
    backoff_s: tuple[float, ...] = (1.0, 5.0, 30.0)
    ack_wait_s: float = 30.0
    bands: bool = False
    batch: int = 1
    linger_s: float = 0.0
    every_s: float | None = None

    def __post_init__(self) -> None:
        positive = {
            "concurrency": self.concurrency,
            "timeout_s": self.timeout_s,
            "attempts": self.attempts,
            "ack_wait_s": self.ack_wait_s,
            "batch": self.batch,
        }
        for name, value in positive.items():
            if value <= 0:
                raise ValueError(f"{name} must be above 0")
        if self.express < 0 or (self.express and not self.bands):
            raise ValueError("express slots need priority bands")
        if self.every_s is not None and not 1 <= self.every_s <= LONGEST_EVERY_S:
            raise ValueError(f"every_s must be 1 to {LONGEST_EVERY_S:g}")
        if not self.backoff_s or min(self.backoff_s) < 0:
            raise ValueError("backoff_s needs at least one wait, none below 0")

    def backoff_after(self, attempt: int) -> float:
        """Seconds to wait after the failure of `attempt` (counted from 1)."""
        return self.backoff_s[min(attempt, len(self.backoff_s)) - 1]
