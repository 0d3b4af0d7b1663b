"""What a backup says of itself, and the checks before anything of it is used."""

from __future__ import annotations

import hashlib
from datetime import datetime
from pathlib import Path

import msgspec

from functions._kit.errors import NereidError

MANIFEST = "manifest.json"
FORMAT = 1
"""Of the folder and its files. Raised when an older `restore` would misread them."""
DATABASE = "database.dump"
SECRETS = "credentials.json"
CHUNK_BYTES = 1 << 20


class BackupError(NereidError):
    """The backup cannot be made, or not be used; the message says why."""


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """A file of the backup; `count` is of rows or messages."""

    size: int
    sha256: str
    count: int


class Position(msgspec.Struct, frozen=True, kw_only=True):
    """How far a recorder had come in EVENTS: what it takes is in the database up to `sequence`."""

    name: str
    subject: str
    sequence: int


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What lies in a backup."""

    format: int
    nereid: str
    """Version of Nereid that made it."""
    made_at: datetime
    migrations: list[str]
    """The database's, in order."""
    rows: dict[str, int]
    parts: dict[str, Part]
    positions: list[Position]


def part_of(path: Path, count: int) -> Part:
    """Describe a file that is written."""
    return Part(size=path.stat().st_size, sha256=_sha256(path), count=count)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a backup whose every part is whole. Raises `BackupError`."""
    try:
        content = (folder / MANIFEST).read_bytes()
    except OSError as error:
        raise BackupError(
            "backup_damaged", f"{folder} is no backup: it has no {MANIFEST}"
        ) from error
    try:
        found: dict[str, object] = msgspec.json.decode(content, type=dict[str, object])
        version = found.get("format")
        if isinstance(version, int) and version > FORMAT:
            raise BackupError(
                "backup_newer",
                f"{folder} was made by Nereid {found.get('nereid')}, in format {version}; this one "
                f"reads up to {FORMAT}: restore it with that version or a newer one",
            )
        manifest = msgspec.json.decode(content, type=Manifest)
    except msgspec.MsgspecError as error:
        raise BackupError("backup_damaged", f"{folder / MANIFEST}: {error}") from error
    for name, part in manifest.parts.items():
        _check(folder / name, part)
    return manifest


def _check(path: Path, part: Part) -> None:
    if not path.is_file():
        raise BackupError("backup_damaged", f"{path} is missing: use another backup")
    size = path.stat().st_size
    if size != part.size:
        raise BackupError(
            "backup_damaged",
            f"{path} has {size} bytes of the {part.size} that were written: use another backup",
        )
    if _sha256(path) != part.sha256:
        raise BackupError(
            "backup_damaged", f"{path} is not what was written (sha256): use another backup"
        )


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
