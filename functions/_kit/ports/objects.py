"""Files by key in one bucket."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What the store knows of an object."""

    key: str
    size_bytes: int
    content_type: str
    modified_at: datetime | None = None


class Objects(Protocol):
    """Files by key in one bucket: S3."""

    async def head(self, key: str) -> ObjectInfo | None:
        """The object's facts, or None where there is none."""
        ...

    async def seen(self, key: str, *, within_s: float) -> ObjectInfo | None:
        """As `head`, or what this process has seen of the object at most `within_s` ago.

        That an object is absent is never remembered, nor what this process has changed since.
        """
        ...

    async def download(self, key: str, path: Path, *, limit_bytes: int | None = None) -> ObjectInfo:
        """Stream the object into the file `path`.

        Raises `NotFound` (code `file_not_found`) and `TooLarge` (beyond `limit_bytes`).
        """
        ...

    async def read(self, key: str, *, limit_bytes: int) -> tuple[bytes, ObjectInfo]:
        """The whole object, into memory. Raises as `download` does."""
        ...

    async def upload(self, path: Path, key: str, content_type: str) -> None:
        """Stream the file `path` to `key`, whole or not at all."""
        ...

    async def copy(self, source: str, target: str) -> None:
        """Copy within the store, content type included. Raises `NotFound` (`file_not_found`)."""
        ...

    async def delete(self, keys: Sequence[str]) -> None:
        """Remove the objects; absent ones are no error."""
        ...

    def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        """Every object whose key begins with `prefix`; content types are left empty."""
        ...

    async def presign(self, key: str, *, expires_s: int) -> str:
        """A URL that reads the object without credentials for `expires_s` seconds.

        Or a hundredth less, a minute at most: the same URL may be handed out again. Never longer.
        """
        ...

    async def healthy(self) -> bool:
        """Whether the server answers now."""
        ...
