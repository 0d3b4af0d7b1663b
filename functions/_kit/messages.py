"""Bases of everything that crosses a wire: strict from outside, tolerant between our own parts."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import msgspec
import uuid_utils
from msgspec import Meta

NO_JSON = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for bytes that it cannot decode; the second for text that is not UTF-8."""


Word = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$(?!\n)")]
"""What can be part of a subject, of a key, and of a header: no space, dot, or end of a line."""


class Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A body that a caller sends: unknown fields are refused."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A body that a caller gets."""


class Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A message on NATS: unknown fields are ignored, so that versions can meet."""


def new_id() -> str:
    """A UUIDv7: unique, and sorted by its time (RFC 9562)."""
    return str(uuid_utils.uuid7())


def now() -> datetime:
    """This moment, in UTC."""
    return datetime.now(UTC)
