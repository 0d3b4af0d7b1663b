"""`@consume`: makes an async function the handler of a NATS subject."""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol, get_args, get_origin, get_type_hints

from functions._kit.messages import Message
from functions._kit.policy import Policy

_SUBJECT = re.compile(r"^[a-z]+(\.([a-z_]+|\*))*(\.>)?$")


class Run(Protocol):
    """One attempt at a job, as its handler sees it."""

    @property
    def attempt(self) -> int:
        """Counted from 1."""
        ...

    @property
    def scratch(self) -> Path:
        """A folder of this attempt alone; it is removed afterwards."""
        ...

    def progress(self, fraction: float) -> None:
        """Tell how much of this handler's work is done, 0 to 1."""
        ...


@dataclass(frozen=True, slots=True)
class Envelope:
    """What the stream knows of a message beside its content."""

    subject: str
    attempt: int
    """Counted from 1."""
    stored_at: datetime


class Tick(Message, frozen=True, kw_only=True):
    """The message of a handler that runs by the clock (`Policy.every_s`)."""

    at: datetime

    def __post_init__(self) -> None:
        """Refuse, with ValueError, what nobody can reckon back from by months."""
        if self.at.tzinfo is None or not 2000 <= self.at.year < 3000:
            raise ValueError("`at` is a moment from 2000 to 2999, with its offset from UTC")


@dataclass(frozen=True, slots=True)
class Consumer:
    """A handler with its subject, its policy, and the type of its messages."""

    subject: str
    policy: Policy
    handler: Callable[..., Awaitable[Any]]
    message_type: Any
    wants: dict[str, Any]
    """The handler's further parameters by name: the types of the ports it asks for."""


def consume(subject: str, *, policy: Policy) -> Callable[[Callable[..., Awaitable[Any]]], Consumer]:
    """Handle the messages of `subject`; the handler returns or raises, the worker acknowledges.

    The first parameter is the message (a list of them where `policy.batch` > 1), the others are
    ports, `Run` or `Envelope`, found by type. Raises ValueError at import where any of this does
    not hold.
    """
    if not _SUBJECT.match(subject):
        raise ValueError(f"{subject!r} is not a subject of lower-case words and dots")

    def decorate(handler: Callable[..., Awaitable[Any]]) -> Consumer:
        where = f"{handler.__module__}.{handler.__qualname__}"
        if not inspect.iscoroutinefunction(handler):
            raise ValueError(f"{where} must be an async function")
        hints = get_type_hints(handler)
        hints.pop("return", None)
        names = list(inspect.signature(handler).parameters)
        if not names or set(names) != set(hints):
            raise ValueError(f"{where} must type its message and every other parameter")
        message_type = hints.pop(names[0])
        if policy.batch > 1:
            if get_origin(message_type) is not list:
                raise ValueError(f"{where} takes batches, so its message must be a list")
            (message_type,) = get_args(message_type)
        if (policy.every_s is not None) != (message_type is Tick):
            raise ValueError(f"{where} must take a Tick exactly if its policy has every_s")
        return Consumer(subject, policy, handler, message_type, hints)

    return decorate
