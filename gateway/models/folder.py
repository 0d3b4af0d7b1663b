"""Files below a folder of this machine."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
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

    async def write(self, path: str, content: bytes, *, keep_times: bool = False) -> None:
        """See `Files.write`."""
        target = self._root / path
        kept = _times(target, target.parent) if keep_times else {}
        await asyncio.to_thread(self._write, target, content)
        for changed, times in kept.items():
            os.utime(changed, ns=times)

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
        with self._aside() as aside:
            partial = aside / target.name
            partial.write_bytes(content)
            _flush(partial)
            target.parent.mkdir(parents=True, exist_ok=True)
            partial.replace(target)
            _flush(target.parent)

    def _put(self, target: Path, content: Content) -> None:
        with self._aside() as partial:
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

    def _remove(self, target: Path) -> None:
        with self._aside() as aside, contextlib.suppress(FileNotFoundError):
            target.rename(aside / target.name)

    @contextlib.contextmanager
    def _aside(self) -> Iterator[Path]:
        """An empty folder on the same file system, gone at the end with all that is in it then.

        It lies in ROOT/.partial, which is there only meanwhile, for Triton would list it.
        """
        hidden = self._root / PARTIAL
        aside = hidden / uuid.uuid4().hex
        while not aside.is_dir():
            with contextlib.suppress(FileNotFoundError):  # another one has just removed it
                aside.mkdir(parents=True)
        try:
            yield aside
        finally:
            shutil.rmtree(aside, ignore_errors=True)
            with contextlib.suppress(OSError):  # another one is at work there
                hidden.rmdir()


def _times(*paths: Path) -> dict[Path, tuple[int, int]]:
    """When each was read and changed last, in nanoseconds."""
    return {path: (path.stat().st_atime_ns, path.stat().st_mtime_ns) for path in paths}


def _flush(path: Path) -> None:
    """Make sure that a file, or a folder's names, outlive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
