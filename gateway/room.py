"""Refuses what takes work while the disk is nearly full: what is accepted must be kept."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from gateway.edge.headers import secure
from gateway.problems import MEDIA_TYPE, OPENAI_PATHS, openai_error
from gateway.settings import Settings

log = logging.getLogger(__name__)

Room = Callable[[], str | None]
"""A sentence when there is none left."""

READING = frozenset({"GET", "HEAD", "OPTIONS", "DELETE"})
WITHOUT_ROOM = ("/api/v1/auth/token",)
"""What is written nowhere."""
CANCEL = ":cancel"
RETRY_AFTER_S = 30
QUIET_S = 60.0
FULL = (
    "a disk of this Nereid is nearly full, and nothing was taken that might be lost: its log says "
    "which; send this again once its operator has made room"
)


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
                f"the disk of {folder} has {free >> 20} MB left, and {least_bytes >> 20} are kept "
                "free so that nothing accepted is lost: give it space"
            )
    return None


class Refusals:
    """Tells of refusals once a minute, with their number: the log lies on a full disk, too."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._told_at = -QUIET_S
        self._missed = 0

    def tell(self, why: str) -> None:
        """One more was refused."""
        now = self._clock()
        if now - self._told_at < QUIET_S:
            self._missed += 1
            return
        more = f" ({self._missed} more since the last line)" if self._missed else ""
        self._told_at, self._missed = now, 0
        log.warning("refused as storage_full: %s%s", why, more)


def with_room(app: ASGIApp, room: Room) -> ASGIApp:
    """`app`, which answers 503 (`storage_full`) to what takes work while there is no room."""
    refusals = Refusals()

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        why = room() if scope["type"] == ScopeType.HTTP and _takes_work(scope) else None
        if why is None:
            await app(scope, receive, send)
            return
        refusals.tell(why)
        document: dict[str, object] = {
            "type": "about:blank",
            "title": "Service Unavailable",
            "status": 503,
            "code": "storage_full",
            "detail": FULL,
        }
        if str(scope["path"]).startswith(OPENAI_PATHS):
            document["error"] = openai_error(503, "storage_full", FULL, None)
        body = msgspec.json.encode(document)
        headers = [
            (b"content-type", MEDIA_TYPE.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"retry-after", str(RETRY_AFTER_S).encode()),
        ]
        start: Message = {"type": "http.response.start", "status": 503, "headers": headers}
        await secure(start, scope)
        await send(start)
        await send({"type": "http.response.body", "body": body, "more_body": False})

    return guarded


def _takes_work(scope: Scope) -> bool:
    path = str(scope["path"])
    return not (scope.get("method") in READING or path in WITHOUT_ROOM or path.endswith(CANCEL))
