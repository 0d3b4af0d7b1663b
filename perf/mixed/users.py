"""Who uses a system in a mixed load: each function is one turn of one kind of user."""

from __future__ import annotations

import asyncio
import itertools
import random
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mixed.api import Api

TASKS = "/api/v1/media/processingTasks"
CAMERAS = [f"load-{n}" for n in range(4)]
RULES = {"labels": ["person", "cat", "cup"], "min_score": 0.3, "cooldown_seconds": 1}
NUMBER_BYTES = 8
"""The last samples of a clip are its number, so that none was converted before."""
DOWNLOAD_SHARE = 0.25
FOLLOW_ALERTS_S = 30.0


@dataclass
class Load:
    """What all users of a load share."""

    api: Api
    photos: list[bytes]
    frames: list[bytes]
    clips: list[bytes]
    """WAV."""
    client_id: str
    secret: str
    draw: random.Random = field(default_factory=lambda: random.Random(1))  # noqa: S311 - no secret
    accepted: list[str] = field(default_factory=list)
    """Task ids of every 202."""
    numbers: itertools.count[int] = field(default_factory=itertools.count)
    last_alert: str | None = None

    def clip(self) -> bytes:
        """A recording that nobody has sent before."""
        number = next(self.numbers).to_bytes(NUMBER_BYTES, "little")
        return self.draw.choice(self.clips)[:-NUMBER_BYTES] + number


Turn = Callable[[Load], Awaitable[None]]


async def prepare(load: Load) -> None:
    """Rules of the cameras."""
    for camera in CAMERAS:
        await load.api.ask("rules", "PUT", f"/api/v1/cameras/{camera}", json=RULES)


async def photo(load: Load) -> None:
    """Upload, enlarge, follow to the end, ask for the result, now and then fetch it."""
    task_id = await _start(load)
    if await load.api.final("photo", task_id) != "completed":
        raise load.api.record.fail("photo: a task has failed")
    _, _, task = await load.api.ask("status", "GET", f"{TASKS}/{task_id}")
    if load.draw.random() < DOWNLOAD_SHARE:
        await load.api.ask("download", "GET", task["result"]["url"], headers={"X-API-Key": ""})


async def cancellation(load: Load) -> None:
    """Start a task and think better of it."""
    task_id = await _start(load, priority=1)
    # 409: it was done sooner
    await load.api.ask("cancel", "POST", f"{TASKS}/{task_id}:cancel", expect=(200, 409))
    await load.api.final("cancelled", task_id)


async def frame(load: Load) -> None:
    """A camera's picture."""
    await load.api.ask(
        "frame",
        "POST",
        "/api/v1/frames",
        params={"camera_id": load.draw.choice(CAMERAS)},
        data=load.draw.choice(load.frames),
        expect=(202,),
    )


async def upload(load: Load) -> None:
    """A photo that is kept, and nothing more."""
    form = {"file": load.draw.choice(load.photos)}
    await load.api.ask("upload", "POST", "/api/v1/media", data=form, expect=(201,))


async def conversion(load: Load) -> None:
    """Sound into MP3."""
    query = {"target": "mp3", "sample_rate": "44100"}
    await load.api.ask(
        "conversion", "POST", "/api/v1/audio:convert", params=query, data=load.clip()
    )


async def recording(load: Load) -> None:
    """Words of a clip."""
    form = {"audio_file": load.clip()}
    _, _, said = await load.api.ask("words", "POST", "/api/v1/translate_audio", data=form)
    if not said["transcription"]:
        raise load.api.record.fail("words: none")


async def recording_task(load: Load) -> None:
    """The same as a task, which is followed."""
    form = {"audio_file": load.clip(), "async": "true"}
    path = "/api/v1/translate_audio"
    _, _, task = await load.api.ask("words.task", "POST", path, data=form, expect=(202,))
    load.accepted.append(task["task_id"])
    if await load.api.final("words.task", task["task_id"]) != "completed":
        raise load.api.record.fail("words.task: a task has failed")


async def alerts(load: Load) -> None:
    """The last alerts of a camera, all of them by the hour, and the list of tasks."""
    query = {"camera_id": load.draw.choice(CAMERAS), "limit": "50"}
    await load.api.ask("alerts", "GET", "/api/v1/alerts", params=query)
    await load.api.ask("alerts.counts", "GET", "/api/v1/alerts/counts")
    await load.api.ask("tasks", "GET", TASKS, params={"limit": "50"})


async def follower(load: Load) -> None:
    """Alerts as they come, for a while; comes back where it left off."""
    path = "/api/v1/alerts/stream"
    with suppress(TimeoutError):
        async with asyncio.timeout(FOLLOW_ALERTS_S):
            async for number, _ in load.api.events("follower", path, load.last_alert):
                load.api.record.done["follower.alert"] += 1
                load.last_alert = number


async def token(load: Load) -> None:
    """Client credentials for a token: 60 ms of a core, by the price of a guess."""
    credentials = {"client_id": load.client_id, "client_secret": load.secret}
    body = credentials | {"grant_type": "client_credentials"}
    await load.api.ask("token", "POST", "/api/v1/auth/token", json=body)


async def _start(load: Load, priority: int | None = None) -> str:
    form = {"file": load.draw.choice(load.photos)}
    _, _, kept = await load.api.ask("upload", "POST", "/api/v1/media", data=form, expect=(201,))
    body: dict[str, Any] = {
        "file_path": kept["file_path"],
        "workflow": "nas-photo-processing",
        "priority": priority or load.draw.randint(1, 10),
    }
    _, _, task = await load.api.ask(
        "process",
        "POST",
        "/api/v1/media:process",
        json=body,
        headers={"Idempotency-Key": str(uuid.uuid4())},
        expect=(202,),
    )
    load.accepted.append(task["task_id"])
    return str(task["task_id"])


@dataclass(frozen=True, slots=True)
class Kind:
    """How many users of a kind there are, and how long each waits from turn to turn.

    With `steady`, turns begin that often, however long each takes.
    """

    turn: Turn
    users: int
    every_s: float
    steady: bool = False


def kinds(cores: int) -> list[Kind]:
    """More photos than the cores can do, so that they are never idle, and all else beside them."""
    return [
        Kind(photo, users=cores, every_s=0.0),
        Kind(recording, users=1, every_s=1.0),
        Kind(recording_task, users=1, every_s=5.0),
        Kind(conversion, users=1, every_s=1.0),
        Kind(upload, users=1, every_s=1.0),
        Kind(alerts, users=2, every_s=1.0),
        Kind(cancellation, users=1, every_s=5.0),
        Kind(follower, users=2, every_s=0.0),
        Kind(token, users=1, every_s=3.0),
        Kind(frame, users=cores, every_s=0.5, steady=True),
    ]


def read(folder: Path, suffix: str) -> list[bytes]:
    """The files of the folder that end so."""
    return [path.read_bytes() for path in sorted(folder.glob(f"*{suffix}"))]
