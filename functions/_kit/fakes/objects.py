"""S3 in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

from functions._kit.errors import NotFound, TooLarge, Unavailable
from functions._kit.ports import ObjectInfo

URL = "http://objects.invalid/bucket/"
"""Where presigned URLs lead: nowhere (RFC 2606)."""


class FakeObjects:
    """Answers as `S3Objects` does."""

    def __init__(self) -> None:
        self.sick = False
        self.contents: dict[str, bytes] = {}
        """Every object by its key."""
        self._types: dict[str, str] = {}

    async def head(self, key: str) -> ObjectInfo | None:
        """See `Objects.head`."""
        self._check_health()
        if key not in self.contents:
            return None
        return ObjectInfo(key, len(self.contents[key]), self._types[key])

    async def download(self, key: str, path: Path, *, limit_bytes: int | None = None) -> ObjectInfo:
        """See `Objects.download`."""
        info = await self.head(key)
        if info is None:
            raise NotFound("file_not_found", f"there is no file {key!r}", field="file_path")
        if limit_bytes is not None and info.size_bytes > limit_bytes:
            raise TooLarge(
                "file_too_large",
                f"{key!r} has {info.size_bytes} bytes; the limit is {limit_bytes}",
                field="file_path",
            )
        await asyncio.to_thread(path.write_bytes, self.contents[key])
        return info

    async def upload(self, path: Path, key: str, content_type: str) -> None:
        """See `Objects.upload`."""
        content = await asyncio.to_thread(path.read_bytes)
        self._store(key, content, content_type)

    async def put(self, key: str, chunks: AsyncIterator[bytes], content_type: str) -> int:
        """See `Objects.put`."""
        self._check_health()
        content = b"".join([chunk async for chunk in chunks])
        self._store(key, content, content_type)
        return len(content)

    async def delete(self, key: str) -> None:
        """See `Objects.delete`."""
        self._check_health()
        self.contents.pop(key, None)
        self._types.pop(key, None)

    async def presign(self, key: str, *, expires_s: int) -> str:
        """See `Objects.presign`. Signing asks no server, so this works while `sick`, too."""
        return f"{URL}{quote(key)}?expires={expires_s}"

    async def healthy(self) -> bool:
        """Whether it is not `sick`."""
        return not self.sick

    def _store(self, key: str, content: bytes, content_type: str) -> None:
        self._check_health()
        self.contents[key], self._types[key] = content, content_type

    def _check_health(self) -> None:
        if self.sick:
            raise Unavailable("s3", "S3 cannot be reached: the fake is sick")
