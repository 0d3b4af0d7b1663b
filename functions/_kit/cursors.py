"""Cursors of pages; those of a moment and an id are opaque, and safe in a URL."""

from __future__ import annotations

import base64
import binascii
import struct
import uuid
from datetime import UTC, datetime, timedelta

from functions._kit.errors import RequestError

CURSOR_LENGTH = 32
"""Characters: 24 bytes in base64, without a remainder."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_LAYOUT = struct.Struct(">q16s")


def write_cursor(moment: datetime, row_id: str) -> str:
    """The cursor of a page that begins after this row; `row_id` is a UUID."""
    packed = _LAYOUT.pack((moment - _EPOCH) // _MICROSECOND, uuid.UUID(row_id).bytes)
    return base64.urlsafe_b64encode(packed).decode()


def read_cursor(cursor: str) -> tuple[datetime, str]:
    """What `write_cursor` was given. Raises `RequestError` (code `invalid_cursor`)."""
    try:
        # strict: b64decode on its own skips what is not of its alphabet
        packed = base64.b64decode(cursor.encode("ascii"), altchars=b"-_", validate=True)
        microseconds, row_id = _LAYOUT.unpack(packed)
        return _EPOCH + microseconds * _MICROSECOND, str(uuid.UUID(bytes=row_id))
    except (UnicodeEncodeError, binascii.Error, struct.error, OverflowError):
        raise invalid_cursor() from None


def invalid_cursor() -> RequestError:
    """The error for a cursor that we have not given."""
    return RequestError(
        "invalid_cursor", "cursor must be a next_cursor of an earlier answer", field="cursor"
    )
