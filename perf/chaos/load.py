"""Sends the inputs of a plan, each at its time, until each is accepted."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial

import aiohttp
import msgspec
from chaos.client import Answered, Api, GivenUpError
from chaos.ledger import FrameEntry, Ledger, TaskEntry
from chaos.media import LABELS, PHOTO_SIZES, RULES, SCALE, TARGETS, WORDS, Media
from chaos.plan import Input

CAMERAS = ("front", "yard", "gate")
BURST_CAMERA = "crowd"
BURST = 60
BURST_AT_ONCE = 8


@dataclass
class Load:
    """One client's work."""

    api: Api
    ledger: Ledger
    media: Media
    callback_url: str
    seed: int
    began: datetime = field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0))
    made: int = 0
    """Frames so far, refused ones included: each has a time of capture of its own."""

    async def set_rules(self) -> None:
        """Tell every camera what an alert is."""
        for camera in (*CAMERAS, BURST_CAMERA):
            await self.api.ask("PUT", f"/api/v1/cameras/{camera}", {200}, json=RULES)

    async def send_all(self, inputs: Sequence[Input]) -> None:
        """Send each at its time; returns when all are accepted, or given up."""
        began = time.monotonic()

        async def at_its_time(one: Input) -> None:
            await asyncio.sleep(max(began + one.at_s - time.monotonic(), 0))
            await self.send(one)

        async with asyncio.TaskGroup() as group:
            for one in inputs:
                group.create_task(at_its_time(one))

    async def send(self, one: Input) -> None:
        """One input."""
        match one.kind:
            case "frame":
                await self.frame(CAMERAS[one.number % len(CAMERAS)], one.variant)
            case "photo":
                await self._task(one, self._photo(one))
            case "speech":
                await self._task(one, self._speech(one))
            case _:
                await self._conversion(one)

    async def burst(self) -> None:
        """More frames of one camera than its queue takes."""
        slots = asyncio.Semaphore(BURST_AT_ONCE)

        async def one(number: int) -> None:
            async with slots:
                await self.frame(BURST_CAMERA, number % len(LABELS))

        await asyncio.gather(*map(one, range(BURST)))

    async def frame(self, camera: str, variant: int) -> None:
        """A frame until it is accepted; each try is a frame of its own, as a camera's are."""
        while time.monotonic() < self.api.deadline:
            entry = self._next_frame(variant)
            answer = await self.api.once(
                "POST",
                "/api/v1/frames",
                params={"camera_id": camera, "captured_at": entry.captured_at},
                body=partial(self.media.frame, variant, entry.number),
            )
            if answer is None:
                await asyncio.sleep(0.5)
            elif answer.status == 202:
                entry.accepted = True
                self.ledger.accepted_at.append(time.time())
                return
            else:
                await asyncio.sleep(self.api.pause_s("POST /api/v1/frames", answer))

    def _next_frame(self, variant: int) -> FrameEntry:
        number, self.made = self.made, self.made + 1
        captured = (self.began + timedelta(milliseconds=number)).isoformat(timespec="milliseconds")
        entry = FrameEntry(captured_at=captured, number=number, labels=LABELS[variant])
        self.ledger.frames[captured] = entry
        return entry

    async def _task(self, one: Input, asking: Awaitable[tuple[Answered, TaskEntry]]) -> None:
        try:
            answer, entry = await asking
        except GivenUpError:
            self.ledger.unsure_tasks += 1
            return
        entry.task_id = msgspec.json.decode(answer.body)["task_id"]
        entry.accepted_at = time.time()
        entry.callback = one.callback
        entry.streamed = [] if one.followed else None
        self.ledger.accepted_at.append(entry.accepted_at)
        self.ledger.tasks[entry.task_id] = entry

    async def _photo(self, one: Input) -> tuple[Answered, TaskEntry]:
        file = self.media.photo(one.variant, one.number)
        uploaded = await self.api.ask("POST", "/api/v1/media", {201}, body=lambda: file)
        path = msgspec.json.decode(uploaded.body)["file_path"]
        body = {
            "file_path": path,
            "workflow": "nas-photo-processing",
            "priority": one.priority,
            "parameters": {"image_enhance": {"scale_factor": SCALE}},
        } | ({"callback_url": self.callback_url} if one.callback else {})
        answer = await self.api.ask(
            "POST", "/api/v1/media:process", {202}, json=body, headers=self._once(one)
        )
        width, height = PHOTO_SIZES[one.variant]
        size = (width * SCALE, height * SCALE)
        return answer, TaskEntry(task_id="", kind="photo", accepted_at=0, size=size)

    async def _speech(self, one: Input) -> tuple[Answered, TaskEntry]:
        """By either of the functions that take recordings."""
        path, name, more = (
            ("/api/v1/translate_audio", "audio_file", {})
            if one.variant % 2
            else ("/v1/audio/transcriptions", "file", {"model": "whisper-1"})
        )
        fields: dict[str, str] = {"async": "true", "priority": str(one.priority), **more}
        if one.callback:
            fields["callback_url"] = self.callback_url

        def form() -> aiohttp.FormData:
            data = aiohttp.FormData(fields)
            data.add_field(name, self.media.voice, filename="voice.opus")
            return data

        answer = await self.api.ask("POST", path, {202}, body=form, headers=self._once(one))
        return answer, TaskEntry(task_id="", kind="speech", accepted_at=0, words=WORDS)

    async def _conversion(self, one: Input) -> None:
        """Answered at once, and no task."""
        query = {
            "target": TARGETS[one.number % len(TARGETS)],
            "sample_rate": str(16_000 if one.variant % 2 else 8_000),
        }

        def form() -> aiohttp.FormData:
            data = aiohttp.FormData()
            data.add_field("file", self.media.voice, filename="voice.opus")
            return data

        path = "/api/v1/audio:convert"
        try:
            answer = await self.api.ask("POST", path, {200}, body=form, params=query)
        except GivenUpError:
            return
        if len(answer.body) < 1000:
            self.ledger.broken_answers.append(f"{path}: {len(answer.body)} bytes of sound")
        self.ledger.conversions += 1

    def _once(self, one: Input) -> dict[str, str]:
        key = uuid.uuid5(uuid.NAMESPACE_OID, f"chaos {self.seed} {one.kind} {one.number}")
        return {"Idempotency-Key": str(key)}


def same_moment(text: str) -> str:
    """A time of capture as frames are known by."""
    return datetime.fromisoformat(text).isoformat(timespec="milliseconds")
