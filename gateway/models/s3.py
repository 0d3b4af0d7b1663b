"""Files below a prefix in S3."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from functions._kit.errors import Conflict
from functions._kit.ports import Objects
from gateway.models.files import PARTIAL, Content

CONTENT_TYPE = "application/octet-stream"
LARGEST_BYTES = 8 << 30


class S3Files:
    """`Files` below `prefix`. S3 has no folders and no renames.

    A folder in the making holds the file `.partial` until it is whole.
    """

    def __init__(self, objects: Objects, prefix: str) -> None:
        self._objects = objects
        self._prefix = f"{prefix}/" if prefix else ""

    async def paths(self, folder: str = "") -> list[str]:
        """See `Files.paths`."""
        prefix = f"{self._prefix}{folder}/" if folder else self._prefix
        found = [info.key.removeprefix(self._prefix) async for info in self._objects.list(prefix)]
        return sorted(path for path in found if not path.endswith("/"))

    async def read(self, path: str) -> bytes:
        """See `Files.read`."""
        content, _ = await self._objects.read(self._prefix + path, limit_bytes=LARGEST_BYTES)
        return content

    async def write(self, path: str, content: bytes, *, keep_times: bool = False) -> None:
        """See `Files.write`. S3 sets the times itself."""
        del keep_times
        with tempfile.NamedTemporaryFile() as file:
            await asyncio.to_thread(Path(file.name).write_bytes, content)
            await self._objects.upload(Path(file.name), self._prefix + path, CONTENT_TYPE)

    async def put(self, folder: str, content: Content) -> None:
        """See `Files.put`."""
        if await self.paths(folder):
            raise Conflict("folder_exists", f"There are files below {folder} already.")
        await self.write(f"{folder}/{PARTIAL}", b"")
        for path, source in content.items():
            if isinstance(source, bytes):
                await self.write(f"{folder}/{path}", source)
            else:
                key = f"{self._prefix}{folder}/{path}"
                await self._objects.upload(source, key, CONTENT_TYPE)
        await self._objects.delete([f"{self._prefix}{folder}/{PARTIAL}"])

    async def remove(self, folder: str) -> None:
        """See `Files.remove`. Marked first, so that what is left of it is never taken for whole."""
        paths = await self.paths(folder)
        if not paths:
            return
        marker = f"{folder}/{PARTIAL}"
        await self.write(marker, b"")
        await self._objects.delete([self._prefix + path for path in paths if path != marker])
        await self._objects.delete([self._prefix + marker])
