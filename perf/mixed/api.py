"""Requests of a load, each remembered: how long it took, how it ended, whether it was put off."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp

LONGEST_PAUSE_S = 60.0
FINAL = {"completed", "failed", "cancelled"}


class FailedError(Exception):
    """A request or a task ended as it must not; it has been noted."""


@dataclass
class Record:
    """All that happened."""

    done: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    refused: Counter[str] = field(default_factory=Counter)
    """429 with Retry-After: backpressure, which was obeyed."""
    errors: Counter[str] = field(default_factory=Counter)

    def fail(self, what: str) -> FailedError:
        """Note an error, to be raised."""
        self.errors[what] += 1
        return FailedError(what)

    def note(self, kind: str, seconds: float) -> None:
        """Something went well."""
        self.done[kind] += 1
        self.seconds.setdefault(kind, []).append(seconds)


class Api:
    """A client of the system, with what it has seen."""

    def __init__(self, http: aiohttp.ClientSession, record: Record) -> None:
        self.http = http
        self.record = record

    async def ask(
        self, kind: str, method: str, path: str, *, expect: tuple[int, ...] = (200,), **request: Any
    ) -> tuple[int, bytes, Any]:
        """Status, body, and its JSON if it is that. Comes back later where it is told so.

        Raises `FailedError` for any other end than those expected.
        """
        while True:
            began = time.perf_counter()
            try:
                async with self.http.request(method, path, **request) as answer:
                    body = await answer.read()
                    is_json = "json" in answer.content_type
                    content = await answer.json(content_type=None) if is_json and body else None
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                raise self.record.fail(f"{kind}: {type(error).__name__}") from error
            if answer.status in expect:
                self.record.note(kind, time.perf_counter() - began)
                return answer.status, body, content
            code = content.get("code", "") if isinstance(content, dict) else ""
            told = answer.headers.get("Retry-After", "")
            if answer.status != 429 or not told.isdigit():
                raise self.record.fail(f"{kind}: {answer.status} {code}".strip())
            self.record.refused[f"{kind}: {code}"] += 1
            await asyncio.sleep(min(float(told), LONGEST_PAUSE_S))

    async def events(
        self, kind: str, path: str, last_id: str | None = None
    ) -> AsyncIterator[tuple[str, str]]:
        """Server-sent events: id and name. Raises `FailedError` where they cannot be had."""
        headers = {"Last-Event-ID": last_id} if last_id else {}
        try:
            async with self.http.get(path, headers=headers) as answer:
                if answer.status == 204:
                    return
                if answer.status != 200:
                    raise self.record.fail(f"{kind}: {answer.status}")
                number = name = ""
                async for line in answer.content:
                    word, _, rest = line.decode().rstrip("\r\n").partition(": ")
                    if word == "id":
                        number = rest
                    elif word == "event":
                        name = rest
                    elif not word and name:
                        yield number, name
                        name = ""
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self.record.fail(f"{kind}: {type(error).__name__}") from error

    async def final(self, kind: str, task_id: str) -> str:
        """Follow a task's events; the name of the last one. Raises `FailedError` without one."""
        began, last = time.perf_counter(), ""
        path = f"/api/v1/media/processingTasks/{task_id}/events"
        async for _, name in self.events(f"{kind}.events", path):
            last = name
        if last not in FINAL:
            raise self.record.fail(f"{kind}: its events ended with {last or 'nothing'}")
        self.record.note(f"{kind}.whole", time.perf_counter() - began)
        return last
