"""Recordings, those who send them, and workers: what tests of functions that take sound share."""

from __future__ import annotations

import asyncio
import io
import wave
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import httpx
import msgspec
import numpy as np

from functions.tasks.contracts import Task

if TYPE_CHECKING:
    from tests.functions.conftest import World

RATE = 8000


def wav(*parts: tuple[float, bool]) -> bytes:
    """A WAV file of 8 kHz: seconds, and whether somebody speaks in them."""
    sound = [
        np.sin(np.arange(round(seconds * RATE)) * 0.3) * (12_000 if loud else 0)
        for seconds, loud in parts
    ]
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(np.concatenate(sound).astype("<i2").tobytes())
    return buffer.getvalue()


SHORT = wav((0.5, False), (1.0, True), (1.5, False), (1.0, True), (1.0, False))
LONG = wav((61.0, False))


def files_in(folder: Path) -> list[Path]:
    return list(folder.iterdir())


def task_of(world: World) -> Task:
    """The only task that was begun."""
    (job,) = world.jobs("jobs.audio.transcribe.*")
    return msgspec.convert(job["task"], Task)


async def works(world: World, answer: Callable[[Task], Any]) -> None:
    """A worker that does the first job by `answer`."""
    async for _ in world.stream.follow("jobs.audio.transcribe.normal"):
        await answer(task_of(world))
        return


class Leaver:
    """A client that sends its request and closes the connection before the answer."""

    def __init__(
        self, world: World, path: str, token: str, form: dict[str, str], **files: bytes
    ) -> None:
        request = httpx.Request("POST", "http://nereid.test" + path, data=form, files=files)
        self._path = path
        self._body = request.read()
        self._world = world
        self._headers = [(b"authorization", token.encode())]
        self._headers += [(name.lower(), value) for name, value in request.headers.raw]
        self._gone, self._sent = asyncio.Event(), False
        self.answered: list[Any] = []

    async def __aenter__(self) -> Self:
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST",
            "path": self._path, "raw_path": self._path.encode(), "query_string": b"",
            "headers": self._headers, "scheme": "http", "server": ("nereid.test", 80),
            "client": ("127.0.0.1", 1), "root_path": "", "extensions": {},
        }  # fmt: skip
        app: Any = self._world.app
        self._answering = asyncio.create_task(app(scope, self._receive, self._send))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._gone.set()
        async with asyncio.timeout(60):
            await self._answering

    async def _receive(self) -> dict[str, Any]:
        if not self._sent:
            self._sent = True
            return {"type": "http.request", "body": self._body, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        self.answered.append(message)
