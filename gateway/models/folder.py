"""Files below a folder of this machine."""

from __future__ import annotations

import asyncio
import os
import shutil
import uuid
from pathlib import Path

from functions._kit.errors import Conflict, NotFound, Unavailable
from gateway.models.files import PARTIAL, Content


class FolderFiles:
    """`Files` below `root`. What is put is written beside its place and renamed."""

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()

    async def paths(self, folder: str = "") -> list[str]:
        """See `Files.paths`. Raises `Unavailable` where there is no such root."""
        if not self._root.is_dir():
            raise Unavailable("model_repository", f"There is no model repository {self._root}.")
        return await asyncio.to_thread(self._paths, folder)

    async def read(self, path: str) -> bytes:
        """See `Files.read`."""
        try:
            return await asyncio.to_thread((self._root / path).read_bytes)
        except OSError as error:
            raise NotFound("file_not_found", f"There is no file {self._root / path}.") from error

    async def write(self, path: str, content: bytes) -> None:
        """See `Files.write`."""
        await asyncio.to_thread(self._write, self._root / path, content)

    async def put(self, folder: str, content: Content) -> None:
        """See `Files.put`."""
        await asyncio.to_thread(self._put, self._root / folder, content)

    async def remove(self, folder: str) -> None:
        """See `Files.remove`. Out of sight at once, then deleted."""
        await asyncio.to_thread(self._remove, self._root / folder)

    def _paths(self, folder: str) -> list[str]:
        files = (path for path in (self._root / folder).rglob("*") if path.is_file())
        found = (path.relative_to(self._root).as_posix() for path in files)
        return sorted(path for path in found if not path.startswith(f"{PARTIAL}/"))

    def _write(self, target: Path, content: bytes) -> None:
        partial = self._beside(target)
        try:
            partial.write_bytes(content)
            _flush(partial)
            target.parent.mkdir(parents=True, exist_ok=True)
            partial.replace(target)
            _flush(target.parent)
        finally:
            self._clear(partial)

    def _put(self, target: Path, content: Content) -> None:
        partial = self._beside(target)
        try:
            for path, source in content.items():
                file = partial / path
                file.parent.mkdir(parents=True, exist_ok=True)
                if isinstance(source, bytes):
                    file.write_bytes(source)
                else:
                    shutil.copyfile(source, file)
            for file in partial.rglob("*"):
                _flush(file)
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                partial.rename(target)  # over an empty folder as well
            except OSError as error:
                raise Conflict("folder_exists", f"There is a folder {target} already.") from error
            _flush(target.parent)
        finally:
            self._clear(partial)

    def _remove(self, target: Path) -> None:
        trash = self._beside(target)
        try:
            target.rename(trash)
        except FileNotFoundError:
            return
        finally:
            self._clear(trash)

    def _beside(self, target: Path) -> Path:
        """Another name on the same file system, in a folder that nobody lists."""
        hidden = self._root / PARTIAL
        hidden.mkdir(parents=True, exist_ok=True)
        return hidden / f"{target.name}.{uuid.uuid4().hex}"

    def _clear(self, partial: Path) -> None:
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Make sure that a file, or a folder's names, outlive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
