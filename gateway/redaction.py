"""Logs without secrets: what looks like one is masked, and so is what the settings hold."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterable

MASK = "***"
SHORTEST = 8
"""Of a value that is masked wherever it stands; a shorter one would tear words apart."""
PATTERNS = (
    # headers, however a library prints them: Authorization: Bearer x, 'x-api-key': 'y', b'...'
    re.compile(r"(?i)(\b(?:authorization|x-api-key|cookie)\b['\"]?\s*[:=,]\s*(?:b?['\"])?"
               r"(?:(?:bearer|basic)\s+)?)[^\s'\",;)}\]]+"),
    re.compile(r"(?i)(\bbearer\s+)[A-Za-z0-9._~+/=-]{8,}"),
    # passwords in addresses: nats://user:password@host
    re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s:/@'\"]*:)[^\s/@'\"]+(?=@)"),
    # presigned URLs and tokens in queries
    re.compile(r"(?i)([?&;](?:x-amz-(?:signature|credential|security-token)|signature|token|"
               r"access_token|api_?key|key|secret|password|client_secret)=)[^&\s'\"]+"),
    # members of JSON and of Python's dicts
    re.compile(r"(?i)([\"'](?:client_secret|password|api_?key|access_token|secret)[\"']\s*:\s*)"
               r"[\"'][^\"']*[\"']"),
    # anything with the form of a signed token
    re.compile(r"()\beyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]*"),
)  # fmt: skip


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """`text` with credentials masked, and each of `secrets`."""
    for secret in secrets:
        if len(secret) >= SHORTEST:
            text = text.replace(secret, MASK)
    for pattern in PATTERNS:
        text = pattern.sub(rf"\g<1>{MASK}", text)
    return text


class RedactingFormatter(logging.Formatter):
    """One line a record, in UTC, redacted, tracebacks too; no message can begin another line."""

    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")
        self._secrets = sorted(secrets, key=len, reverse=True)

    def format(self, record: logging.LogRecord) -> str:
        """The whole entry; lines of a traceback are indented."""
        first, *others = super().format(record).split("\n")
        text = "\n".join([first, *(f"    {line.translate(_ESCAPES)}" for line in others)])
        return redact(text, self._secrets)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's own name
        """The first line, its message with control characters escaped."""
        shown = record.message.translate(_ESCAPES)
        return super().formatMessage(_with_message(record, shown))


_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(9), *range(10, 32), 127)}


def _with_message(record: logging.LogRecord, message: str) -> logging.LogRecord:
    shown = logging.makeLogRecord(record.__dict__)
    shown.message = message
    return shown
