"""What HTTP functions share: ports as parameters, who is calling, streamed bodies, ids in paths."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypeVar

import multipart
from litestar import Request
from litestar.di import NamedDependency
from litestar.params import HeaderParameter, SkipValidation
from litestar.types import Scope

from functions._kit.addresses import site_of
from functions._kit.errors import NotFound, RequestError, TooLarge, Unprocessable

T = TypeVar("T")

Port: TypeAlias = NamedDependency[SkipValidation[T]]
"""A parameter that the gateway fills by its name: `stream: Port[Stream]`."""

IdempotencyKey: TypeAlias = Annotated[
    str | None, HeaderParameter(name="Idempotency-Key", min_length=1, max_length=255)
]
"""A parameter of functions that begin tasks; its default is None."""

HttpRequest: TypeAlias = Request[Any, Any, Any]

MAX_FIELD_BYTES = 4096
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
    lists: dict[str, list[str]] = field(default_factory=dict)
    """Fields whose names end in `[]`, without that: they may come more than once."""


def caller_of(scope: Scope) -> str:
    """The address that a request comes from, as it is counted: see `site_of`."""
    client = scope.get("client")
    return site_of(client[0]) if client else ""


def valid_task_id(text: str) -> str:
    """`text` as a task id. Raises `NotFound`, like an id that never was."""
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise NotFound("task_not_found", f"no task {text[:64]!r}", field="task_id") from None


def check_offset(field: str, moment: datetime | None) -> None:
    """Raise `RequestError` (`time_without_zone`) for a time that could be anywhere's."""
    if moment is not None and moment.tzinfo is None:
        raise RequestError(
            "time_without_zone",
            f"{field} must tell its offset, as in 2026-01-31T12:00:00Z",
            field=field,
        )


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
        raise _too_large(limit_bytes, file_field)
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
                raise _too_large(limit_bytes, file_field)
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


async def while_connected(request: HttpRequest, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled when the client goes away.

    The body must have been read. Raises `RequestError` (`client_gone`), which nobody hears.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise RequestError("client_gone", "the client closed the connection before the answer")
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _gone(request: HttpRequest) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class _Form:
    """Takes a multipart form apart: the file's bytes go on, small text fields are kept."""

    def __init__(self, file_field: str, received: Received) -> None:
        self.found = False
        self._file_field = file_field
        self._received = received
        self._name = ""
        self._text = bytearray()

    def take(self, part: multipart.MultipartSegment | bytearray | None) -> bytes | None:
        """One event of the parser; bytes where it belongs to the file."""
        if isinstance(part, multipart.MultipartSegment):
            self._name, self._text = part.name, bytearray()
            if self._name == self._file_field:
                if self.found:
                    raise Unprocessable(
                        "invalid_form",
                        f"the form has the field {self._name!r} twice; send one file a request",
                        field=self._name,
                    )
                self.found, self._received.filename = True, part.filename
            elif part.filename:
                raise _file_missing(self._file_field, f"only a file in the field {part.name!r}")
        elif self._name == self._file_field:
            return None if part is None else bytes(part)
        elif part is None:
            text = self._text.decode("utf-8", "replace")
            if self._name.endswith("[]"):
                self._received.lists.setdefault(self._name[:-2], []).append(text)
            else:
                self._received.fields[self._name] = text
        else:
            self._text += part
            if len(self._text) > MAX_FIELD_BYTES:
                raise RequestError(
                    "field_too_long",
                    f"form field {self._name!r} may hold {MAX_FIELD_BYTES} bytes at most",
                    field=self._name,
                )
        return None


async def _form_file(
    request: HttpRequest, received: Received, file_field: str
) -> AsyncIterator[bytes]:
    """The bytes of the form's file as they come."""
    _, options = multipart.parse_options_header(request.headers.get("content-type", ""))
    form = _Form(file_field, received)
    try:
        parser = multipart.PushMultipartParser(options.get("boundary", ""), max_segment_count=16)
        async for chunk in request.stream():
            for part in parser.parse(chunk) if chunk else ():
                if (content := form.take(part)) is not None:
                    yield content
        parser.close()
    except multipart.MultipartError as error:
        raise Unprocessable(
            "invalid_form", f"the multipart form is broken: {error}", field="body"
        ) from error
    if not form.found:
        raise _file_missing(file_field, "other fields alone")


def _too_large(limit_bytes: int, field: str) -> TooLarge:
    return TooLarge("body_too_large", f"the file may have {limit_bytes} bytes at most", field=field)


def _file_missing(field: str, instead: str) -> Unprocessable:
    return Unprocessable(
        "file_missing", f"the form has no file in the field {field!r}, {instead}", field=field
    )
