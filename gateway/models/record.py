"""What a version is: one hash over its content, and the note that records it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from tritonclient.grpc.model_config_pb2 import ModelConfig

from gateway.models.config import canonical


class VersionRecord(msgspec.Struct, frozen=True, kw_only=True):
    """MODEL/N/version.json: what the version was when it was added."""

    sha256: str
    """Of the version's files but its notes, and of the model's config without version_policy."""
    added_at: datetime
    source: str
    """Where it came from, for people."""


def new_record(digest: str, source: str) -> bytes:
    """The content of version.json for a version that is added now."""
    record = VersionRecord(sha256=digest, added_at=datetime.now(UTC), source=source)
    return msgspec.json.format(msgspec.json.encode(record)) + b"\n"


def read_record(content: bytes) -> VersionRecord:
    """What version.json says."""
    return msgspec.json.decode(content, type=VersionRecord)


def sha256(content: Path | bytes) -> str:
    """The hash of a file or of bytes, in hexadecimal digits."""
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    with content.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def version_sha256(content: Mapping[str, str], config: ModelConfig) -> str:
    """One hash over the hashes of a version's files by their path, and the configuration."""
    lines = [f"{digest}  {path}\n" for path, digest in sorted(content.items())]
    return sha256("".join(lines).encode() + canonical(config))
