"""Refuses what takes work while the disk is nearly full: what is accepted must be kept."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Receive, Scope, Send

from gateway.problems import MEDIA_TYPE
from gateway.settings import Settings

Room = Callable[[], str | None]
"""A sentence when there is none left."""

READING = frozenset({"GET", "HEAD", "OPTIONS", "DELETE"})
WITHOUT_ROOM = ("/api/v1/auth/token",)
"""What is written nowhere."""
CANCEL = ":cancel"
RETRY_AFTER_S = 30


def room_of(settings: Settings) -> Room:
    """Looks at every disk below the data folder: of the servers, of files in work."""
    least = settings.min_free_bytes
    folders = [settings.scratch_dir, *(settings.data / name for name in ("nats", "postgres", "s3"))]
    return lambda: too_full(folders, least)


def too_full(folders: Sequence[Path], least_bytes: int) -> str | None:
    """A sentence on the first of `folders` with less than `least_bytes`; absent ones have room."""
    for folder in folders:
        try:
            disk = os.statvfs(folder)
        except OSError:
            continue
        free = disk.f_bavail * disk.f_frsize
        if free < least_bytes:
            return (
                f"the disk of Nereid's folder {folder.name} has {free >> 20} MB left, and "
                f"{least_bytes >> 20} are kept free so that nothing accepted is lost; nothing was "
                "taken: give it space and send this again"
            )
    return None


def with_room(app: ASGIApp, room: Room) -> ASGIApp:
    """`app`, which answers 503 (`storage_full`) to what takes work while there is no room."""

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        why = room() if scope["type"] == ScopeType.HTTP and _takes_work(scope) else None
        if why is None:
            await app(scope, receive, send)
            return
        body = msgspec.json.encode(
            {
                "type": "about:blank",
                "title": "Service Unavailable",
                "status": 503,
                "code": "storage_full",
                "detail": why,
            }
        )
        headers = [
            (b"content-type", MEDIA_TYPE.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"retry-after", str(RETRY_AFTER_S).encode()),
        ]
        await send({"type": "http.response.start", "status": 503, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    return guarded


def _takes_work(scope: Scope) -> bool:
    path = str(scope["path"])
    return not (scope.get("method") in READING or path in WITHOUT_ROOM or path.endswith(CANCEL))
