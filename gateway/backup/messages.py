"""Messages of a stream in a file: one after the other, each behind its length."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import msgspec

LENGTH = struct.Struct("<I")


class Stored(msgspec.Struct, frozen=True, array_like=True):
    """A message with everything that JetStream goes by: its id is among the headers."""

    sequence: int
    subject: str
    headers: dict[str, str]
    data: bytes


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Stored).decode


class MessageFile:
    """A file that messages are written to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0
        self._file: BinaryIO = path.open("xb")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def write(self, message: Stored) -> None:
        """Append one."""
        content = _encode(message)
        self._file.write(LENGTH.pack(len(content)) + content)
        self.count += 1


def read_messages(path: Path) -> Iterator[Stored]:
    """All messages of a file that was found whole."""
    with path.open("rb") as file:
        while head := file.read(LENGTH.size):
            yield _decode(file.read(LENGTH.unpack(head)[0]))
