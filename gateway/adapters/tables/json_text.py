"""JSON that PostgreSQL takes."""

from __future__ import annotations

import re
from typing import Any

import msgspec

_NUL = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")
"""A NUL in JSON, which no text of PostgreSQL holds (documentation, section 8.14); not a spelt-out
one, whose backslash is escaped."""


def json_text(value: Any) -> str:
    """`value` as JSON, with U+FFFD for NUL."""
    text = msgspec.json.encode(value).decode()
    # asked first: the expression takes longer over 100 alerts than PostgreSQL does
    return _NUL.sub(r"\1\\ufffd", text) if "\\u0000" in text else text
