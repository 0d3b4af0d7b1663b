"""What HTTP functions share: ports as parameters, who is calling, streamed bodies, ids in paths."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import multipart
from litestar import Request
from litestar.di import NamedDependency
from litestar.params import SkipValidation

from functions._kit.errors import NotFound, RequestError, TooLarge, Unprocessable

T = TypeVar("T")

Port: TypeAlias = NamedDependency[SkipValidation[T]]
"""A parameter that the gateway fills by its name: `stream: Port[Stream]`."""

HttpRequest: TypeAlias = Request[Any, Any, Any]

WRITE_BYTES = 1 << 20
"""Received bytes are hashed and written a mebibyte at a time, off the event loop."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is calling, and what they may do."""

    client_id: str
    scopes: frozenset[str]

    @property
    def sees(self) -> str | None:
        """Whose tasks this caller sees: its own, or all (None) with `system:read`."""
        return None if "system:read" in self.scopes else self.client_id


@dataclass(slots=True)
class Received:
    """A body that has been written to a file."""

    size_bytes: int = 0
    sha256: str = ""
    filename: str | None = None
    fields: dict[str, str] = field(default_factory=dict)


def valid_task_id(text: str) -> str:
    """`text` as a task id. Raises `NotFound`, like an id that never was."""
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise NotFound("task_not_found", f"no task {text[:64]!r}", field="task_id") from None


async def receive(
    request: HttpRequest, into: Path, *, limit_bytes: int, file_field: str = "file"
) -> Received:
    """Write a raw or multipart body to `into` as it comes; memory stays at a few mebibytes.

    Raises `TooLarge` (code `body_too_large`) beyond `limit_bytes`, and `Unprocessable` for an
    empty body (`empty_body`), a broken form (`invalid_form`), or one without the file
    (`file_missing`).
    """
    declared = int(request.headers.get("content-length") or 0)
    form = request.headers.get("content-type", "").startswith("multipart/form-data")
    if declared > limit_bytes + (1 << 16 if form else 0):
        raise _too_large(limit_bytes)
    received = Received()
    chunks = _form_file(request, received, file_field) if form else request.stream()
    with into.open("wb") as file:
        digest = hashlib.sha256()
        buffer = bytearray()

        def flush() -> None:
            digest.update(buffer)
            file.write(buffer)

        async for chunk in chunks:
            received.size_bytes += len(chunk)
            if received.size_bytes > limit_bytes:
                raise _too_large(limit_bytes)
            buffer += chunk
            if len(buffer) >= WRITE_BYTES:
                await asyncio.to_thread(flush)
                buffer.clear()
        await asyncio.to_thread(flush)
    if received.size_bytes == 0:
        raise Unprocessable(
            "empty_body", "the body holds no bytes; send the file's content", field=file_field
        )
    received.sha256 = digest.hexdigest()
    return received


async def _form_file(
    request: HttpRequest, received: Received, file_field: str
) -> AsyncIterator[bytes]:
    """The bytes of the form's file; small text fields go to `received.fields` on the way."""
    _, options = multipart.parse_options_header(request.headers.get("content-type", ""))
    found = False
    segment: multipart.MultipartSegment | None = None
    text = bytearray()
    try:
        parser = multipart.PushMultipartParser(options.get("boundary", ""), max_segment_count=16)
        async for chunk in request.stream():
            if not chunk:
                continue
            for part in parser.parse(chunk):
                if isinstance(part, multipart.MultipartSegment):
                    segment, text = part, bytearray()
                    if segment.name == file_field:
                        found, received.filename = True, segment.filename
                elif segment is not None and segment.name == file_field:
                    if part is not None:
                        yield bytes(part)
                elif segment is not None and part is not None:
                    text += part
                    if len(text) > 4096:
                        raise RequestError(
                            "field_too_long",
                            f"form field {segment.name!r} may hold 4096 bytes at most",
                            field=segment.name,
                        )
                elif segment is not None:
                    received.fields[segment.name] = text.decode("utf-8", "replace")
        parser.close()
    except multipart.MultipartError as error:
        raise Unprocessable(
            "invalid_form", f"the multipart form is broken: {error}", field="body"
        ) from error
    if not found:
        raise Unprocessable(
            "file_missing", f"the form has no field {file_field!r}", field=file_field
        )


def _too_large(limit_bytes: int) -> TooLarge:
    return TooLarge(
        "body_too_large", f"the file may have {limit_bytes} bytes at most", field="file"
    )
