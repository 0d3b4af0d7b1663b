"""What is added to a model repository: a model's folder, a version's folder, or parts of one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from functions._kit.errors import Unprocessable
from gateway.models.layout import CONFIG, CONFIGS, NUMBER, RECORD, content_of


@dataclass(frozen=True, slots=True)
class Source:
    """One version to be added. Paths are relative; contents are files of this machine, or bytes."""

    origin: str
    """Where it came from, for people."""
    files: Mapping[str, Path | bytes]
    """The version's files, golden.npz included where there is one."""
    configs: Mapping[str, str] = field(default_factory=dict)
    """Texts of config.pbtxt, which comes first, and configs/*.pbtxt; empty for files alone."""
    beside: Mapping[str, Path | bytes] = field(default_factory=dict)
    """What lies beside the config: labels.txt, LICENSE."""
    generated: bool = False
    """Whether we wrote the config ourselves: an existing model keeps how it is tuned."""

    def served(self) -> dict[str, Path | bytes]:
        """The version's files but its notes."""
        return {path: self.files[path] for path in content_of(self.files)}


def read_folder(folder: Path, origin: str = "") -> Source:
    """A model's folder, of which the newest version is taken, or a folder of a version's files.

    Raises `Unprocessable` (`source_invalid`).
    """
    origin = origin or str(folder)
    if not (folder / CONFIG).is_file():
        return Source(origin, _files(folder, origin))
    numbers = [path.name for path in folder.iterdir() if NUMBER.fullmatch(path.name)]
    if not numbers:
        raise _invalid(f"{origin} has a {CONFIG} and no folder of a version, as in {origin}/1")
    variants = sorted((folder / CONFIGS).glob("*.pbtxt"))
    paths = [folder / CONFIG, *variants]
    beside = {
        path.name: path
        for path in sorted(folder.iterdir())
        if path.is_file() and path.name != CONFIG and not path.name.startswith(".")
    }
    return Source(
        origin,
        _files(folder / max(numbers, key=int), origin),
        {path.relative_to(folder).as_posix(): _text(path) for path in paths},
        beside,
    )


def _files(folder: Path, origin: str) -> dict[str, Path | bytes]:
    files: dict[str, Path | bytes] = {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".") and path.name != RECORD
    }
    if not content_of(files):
        raise _invalid(f"{origin} holds no file of a model")
    return files


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise _invalid(f"{path} is not UTF-8 text: {error}") from error


def _invalid(message: str) -> Unprocessable:
    return Unprocessable("source_invalid", f"source: {message}.", field="source")
