"""Files by path below one place, as a model repository needs them: of a folder, or of S3."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, TypeAlias

PARTIAL = ".partial"
"""A folder that holds a file of this name is not whole: who made it has died, or is at it."""

Content: TypeAlias = Mapping[str, Path | bytes]
"""Files by their path below a folder: a file of this machine, or the bytes themselves."""


class Files(Protocol):
    """Files by path, `/` between its parts. Raises `Unavailable` where the place cannot be read."""

    async def paths(self, folder: str = "") -> list[str]:
        """Paths of all files below the folder, sorted, hidden ones included."""
        ...

    async def read(self, path: str) -> bytes:
        """A file's content. Raises `NotFound` (`file_not_found`)."""
        ...

    async def write(self, path: str, content: bytes, *, keep_times: bool = False) -> None:
        """Put one file, whole or not at all, over the one that is there.

        With `keep_times` file and folder keep their times of modification, where a place can.
        """
        ...

    async def put(self, folder: str, content: Content) -> None:
        """Make a folder, whole or not at all: the last file is the last to be there.

        Raises `Conflict` (`folder_exists`) where there is one that holds files.
        """
        ...

    async def remove(self, folder: str) -> None:
        """Remove a folder with all that is in it; an absent one is no error."""
        ...
