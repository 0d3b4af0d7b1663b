"""How far each stream had come, kept beside JetStream's store: NATS drops what it cannot read.

It does so without a word in its log, and goes on with a stream that ends earlier. A mark of every
stream's last sequence tells that at the next start.
"""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from functions._kit.errors import Conflict
from gateway.embedded.folder import DataFolder

MARKS = "streams.json"
"""File of the data folder: the last sequence of each stream, a few seconds old at most."""
KEEP_S = 2.0
RECORD = struct.Struct("<I")
HAS_HEADERS = 1 << 31
LEAST_RECORD_BYTES = 30
"""NATS's file of messages: each is its length, sequence, time, subject, data and a checksum."""

States = Mapping[str, int]
Ask = Callable[[], Awaitable[States]]
"""The last sequence of every stream, by its name. Raises OSError where NATS does not answer."""


class StreamMarks:
    """Keeps the marks of one data folder."""

    def __init__(self, folder: DataFolder, ask: Ask) -> None:
        self._folder = folder
        self._ask = ask
        self._noted: States = {}

    async def lost(self) -> list[str]:
        """A sentence for each stream that ends earlier than it had come, or is not found."""
        marks = self._kept()
        states = await self._ask() if marks else {}
        return [
            _sentence(name, mark, states.get(name))
            for name, mark in marks.items()
            if states.get(name, -1) < mark
        ]

    async def note(self) -> None:
        """Note how far the streams are now. Raises OSError, and `Conflict` where the disk fails."""
        states = await self._ask()
        if states and states != self._noted:
            self._folder.write(MARKS, json.dumps(states, indent=1))
            self._noted = states

    async def keep(self) -> None:
        """Note it every few seconds, until cancelled."""
        while True:
            await asyncio.sleep(KEEP_S)
            with suppress(OSError, Conflict):  # NATS is away, or the disk is full
                await self.note()

    def _kept(self) -> dict[str, int]:
        try:
            return msgspec.json.decode(
                (self._folder.path / MARKS).read_bytes(), type=dict[str, int]
            )
        except (OSError, msgspec.DecodeError, msgspec.ValidationError):
            return {}


def _sentence(name: str, mark: int, state: int | None) -> str:
    if state is None:
        return (
            f"the stream {name} was not found in NATS's store: it is made anew of the messages "
            "that are still there"
        )
    return (
        f"the stream {name} ends at message {state} and had come to {mark}: its store was damaged, "
        "and what came after is lost. Jobs of tasks that the database still has as unfinished are "
        "sent again; docs/recovery.md says what else to do"
    )


def torn_blocks(store: Path) -> list[str]:
    """A sentence for each stream whose last file ends within a message; NATS cuts it off there."""
    found = []
    for messages in sorted(store.glob("jetstream/*/streams/*/msgs")):
        blocks = sorted(messages.glob("*.blk"), key=lambda block: int(block.stem))
        if blocks and _is_torn(blocks[-1]):
            found.append(
                f"the stream {messages.parent.name} ends within a message, in {blocks[-1]}: the "
                "machine went down while it was written, and that message is dropped"
            )
    return found


def _is_torn(block: Path) -> bool:
    size, at = block.stat().st_size, 0
    with block.open("rb") as file:
        while at + RECORD.size <= size:
            file.seek(at)
            (length,) = RECORD.unpack(file.read(RECORD.size))
            length &= ~HAS_HEADERS
            if length < LEAST_RECORD_BYTES:
                return True
            at += length
    return at != size


async def stream_states(port: int, user: str, password: str) -> States:
    """Ask NATS for its streams: the client library takes longer to import than NATS to start.

    Raises OSError where it does not answer, or dies within its answer.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(10.0):
            await reader.readline()
            login = {"user": user, "pass": password, "verbose": False, "pedantic": False}
            writer.write(
                f"CONNECT {json.dumps(login)}\r\nSUB _INBOX.marks.* 1\r\n"
                "PUB $JS.API.STREAM.LIST _INBOX.marks.1 2\r\n{}\r\n".encode()
            )
            while not (line := await reader.readline()).startswith(b"MSG "):
                if not line or line.startswith(b"-ERR"):
                    raise ConnectionError(f"NATS said {line!r}")
            answer = json.loads(await reader.readexactly(int(line.split()[-1])))
        return {
            stream["config"]["name"]: int(stream["state"]["last_seq"])
            for stream in answer.get("streams") or ()
        }
    except (EOFError, ValueError, LookupError) as error:
        raise ConnectionError(f"NATS's answer is not whole: {error}") from error
    finally:
        writer.close()
