"""Disks that a test may fill."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.live.conftest import image, own_system, photo

__all__ = ["image", "own_system", "photo"]

SMALL_DISK = "mount", "-t", "tmpfs", "-o"


@pytest.fixture
def small_disk() -> Iterator[Callable[[Path, int], Path]]:
    """Makes a disk of so many MB on a folder; skips where nobody may mount one."""
    mounted: list[Path] = []

    def make(folder: Path, size_mb: int) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            [*SMALL_DISK, f"size={size_mb}m,mode=0777", "tmpfs", str(folder)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield make
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)
