"""S3 in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from pathlib import Path
from urllib.parse import quote

from functions._kit.errors import NotFound, TooLarge, Unavailable
from functions._kit.messages import now
from functions._kit.ports import ObjectInfo

URL = "http://objects.invalid/bucket/"
"""Where presigned URLs lead: nowhere (RFC 2606)."""


class FakeObjects:
    """Answers as `S3Objects` does."""

    def __init__(self) -> None:
        self.sick = False
        self.contents: dict[str, bytes] = {}
        """Every object by its key."""
        self.modified_at: dict[str, datetime] = {}
        """When each was written, by its key."""
        self._types: dict[str, str] = {}

    def add(self, key: str, content: bytes, content_type: str) -> None:
        """An object is there, however it came."""
        self.contents[key], self._types[key] = content, content_type
        self.modified_at[key] = now()

    async def head(self, key: str) -> ObjectInfo | None:
        """See `Objects.head`."""
        self._check_health()
        if key not in self.contents:
            return None
        content, content_type = self.contents[key], self._types.get(key, "")
        return ObjectInfo(key, len(content), content_type, self.modified_at.get(key))

    async def seen(self, key: str, *, within_s: float) -> ObjectInfo | None:
        """See `Objects.seen`; it looks each time."""
        del within_s
        return await self.head(key)

    async def download(self, key: str, path: Path, *, limit_bytes: int | None = None) -> ObjectInfo:
        """See `Objects.download`."""
        info = await self._found(key, limit_bytes)
        await asyncio.to_thread(path.write_bytes, self.contents[key])
        return info

    async def read(self, key: str, *, limit_bytes: int) -> tuple[bytes, ObjectInfo]:
        """See `Objects.read`."""
        info = await self._found(key, limit_bytes)
        return self.contents[key], info

    async def upload(self, path: Path, key: str, content_type: str) -> None:
        """See `Objects.upload`."""
        content = await asyncio.to_thread(path.read_bytes)
        self._check_health()
        self.add(key, content, content_type)

    async def copy(self, source: str, target: str) -> None:
        """See `Objects.copy`."""
        info = await self._found(source, None)
        self.add(target, self.contents[source], info.content_type)

    async def delete(self, keys: Sequence[str]) -> None:
        """See `Objects.delete`."""
        self._check_health()
        for key in keys:
            self.contents.pop(key, None)
            self.modified_at.pop(key, None)
            self._types.pop(key, None)

    async def presign(self, key: str, *, expires_s: int) -> str:
        """See `Objects.presign`. Signing asks no server, so this works while `sick`, too."""
        return f"{URL}{quote(key)}?expires={expires_s}"

    async def healthy(self) -> bool:
        """Whether it is not `sick`."""
        return not self.sick

    async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        """See `Objects.list`."""
        self._check_health()
        for key in sorted(key for key in self.contents if key.startswith(prefix)):
            yield ObjectInfo(key, len(self.contents[key]), "", self.modified_at.get(key))

    async def _found(self, key: str, limit_bytes: int | None) -> ObjectInfo:
        info = await self.head(key)
        if info is None:
            raise NotFound("file_not_found", f"there is no file {key!r}", field="file_path")
        if limit_bytes is not None and info.size_bytes > limit_bytes:
            raise TooLarge(
                "file_too_large",
                f"{key!r} has {info.size_bytes} bytes; the limit is {limit_bytes}",
                field="file_path",
            )
        return info

    def _check_health(self) -> None:
        if self.sick:
            raise Unavailable("s3", "S3 cannot be reached: the fake is sick")
