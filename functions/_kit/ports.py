"""What a function may ask for. The gateway hands in the real servers, tests the fakes of `fakes.py`.

Every method raises `Unavailable` when its server cannot be reached, and nothing else for that.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Receipt:
    """The stream's answer to a publish: stored durably at `sequence`, or known already."""

    sequence: int
    duplicate: bool


@dataclass(frozen=True, slots=True)
class Record:
    """One message of a stream."""

    sequence: int
    subject: str
    data: bytes


class Stream(Protocol):
    """Durable messages: NATS JetStream."""

    async def publish(
        self, subject: str, message: msgspec.Struct, *, message_id: str | None = None
    ) -> Receipt:
        """Store `message`; return when it is durable. A repeated `message_id` stores nothing.

        Raises `QueueFull` when the stream is at its limit.
        """
        ...

    async def last(self, subject: str) -> Record | None:
        """The newest message on `subject`, or None."""
        ...

    def follow(self, subject: str, *, after: int = 0) -> AsyncIterator[Record]:
        """All messages on `subject` with a sequence above `after`, then new ones as they come."""
        ...

    async def healthy(self) -> bool:
        """Whether the server answers now."""
        ...


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What the store knows of an object."""

    key: str
    size_bytes: int
    content_type: str


class Objects(Protocol):
    """Files by key in one bucket: S3."""

    async def head(self, key: str) -> ObjectInfo | None:
        """The object's facts, or None where there is none."""
        ...

    async def download(self, key: str, path: Path, *, limit_bytes: int | None = None) -> ObjectInfo:
        """Stream the object into the file `path`.

        Raises `NotFound` (code `file_not_found`) and `TooLarge` (beyond `limit_bytes`).
        """
        ...

    async def upload(self, path: Path, key: str, content_type: str) -> None:
        """Stream the file `path` to `key`, whole or not at all."""
        ...

    async def put(self, key: str, chunks: AsyncIterator[bytes], content_type: str) -> int:
        """Stream `chunks` to `key`, whole or not at all; return the bytes written."""
        ...

    async def delete(self, key: str) -> None:
        """Remove the object; an absent one is no error."""
        ...

    async def presign(self, key: str, *, expires_s: int) -> str:
        """A URL that reads the object without credentials for `expires_s` seconds."""
        ...

    async def healthy(self) -> bool:
        """Whether the server answers now."""
        ...


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A loaded model, as its Triton configuration describes it."""

    name: str
    version: str
    parameters: dict[str, str]


class Inference(Protocol):
    """Models by name: NVIDIA Triton."""

    async def model(self, name: str) -> ServedModel:
        """The model's newest loaded version, loading it first where the server lets us.

        Raises `NotFound` (code `model_not_found`) where the repository has no such model.
        """
        ...

    async def infer(
        self, model: ServedModel, inputs: dict[str, NDArray[Any]], *, priority: int = 2
    ) -> dict[str, NDArray[Any]]:
        """Run one request. `priority` 1 is served before 2 before 3.

        Arrays go in and come out as the model's configuration says. Raises `JobFailed`
        (code `inference_refused`) where the server refuses the request itself.
        """
        ...

    async def healthy(self) -> bool:
        """Whether the server is ready for requests now."""
        ...
