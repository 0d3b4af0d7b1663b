from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import pyvips

from functions._kit.consume import Envelope
from functions._kit.fakes import (
    FakeAlertStore,
    FakeDeadLetters,
    FakeKeyValue,
    FakeObjects,
    FakePictureDecoder,
    FakeStream,
    FakeTally,
)
from functions._kit.messages import new_id
from functions._kit.ports import Limits
from functions.alerts import detect, discard, keep, record
from functions.alerts.contracts import (
    CAMERAS,
    DISCARD_SUBJECT,
    KEEP_SUBJECT,
    Alert,
    Box,
    DiscardJob,
    Frame,
    KeepJob,
    Rules,
    frame_subject,
)

if TYPE_CHECKING:
    from tests.functions.conftest import SeeingInference, World

NOON = datetime(2026, 5, 4, 12, 0, 0, tzinfo=UTC)
PERSON, CAR, DOG, CUP = range(4)


class Crash(Exception):
    """The process dies here."""


class CrashAt:
    """Counts the calls of several ports, and dies in the `step`-th: before it, or after it."""

    def __init__(self, step: int, *, after: bool) -> None:
        self.left = step
        self.after = after

    @property
    def over(self) -> bool:
        """Whether it has happened."""
        return self.left <= 0

    def wrap(self, port: Any) -> Any:
        return _Crashing(port, self)

    def dies(self, *, after: bool) -> None:
        if not after:
            self.left -= 1
        if self.left == 0 and after == self.after:
            raise Crash


class _Crashing:
    def __init__(self, port: Any, plan: CrashAt) -> None:
        self._port, self._plan = port, plan

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._port, name)
        if not inspect.iscoroutinefunction(method):
            return method

        async def call(*args: Any, **options: Any) -> Any:
            self._plan.dies(after=False)
            answer = await method(*args, **options)
            self._plan.dies(after=True)
            return answer

        return call


async def at_every_step(run: Callable[[CrashAt], Awaitable[None]]) -> int:
    """Call `run` with a crash at its first call, second call, ... until there is none left.

    `run` makes a world of its own, runs into the crash, and runs again. Returns how many crashes
    there were.
    """
    crashes = 0
    for after in (False, True):
        for step in range(1, 1000):
            plan = CrashAt(step, after=after)
            await run(plan)
            if not plan.over:
                break
            crashes += 1
    return crashes


@dataclass
class Yard:
    """The alert functions over fakes, without HTTP."""

    inference: SeeingInference
    limits: Limits
    stream: FakeStream = field(default_factory=FakeStream)
    objects: FakeObjects = field(default_factory=FakeObjects)
    values: FakeKeyValue = field(default_factory=FakeKeyValue)
    tally: FakeTally = field(default_factory=FakeTally)
    alert_store: FakeAlertStore = field(default_factory=FakeAlertStore)

    def __post_init__(self) -> None:
        self.dead_letters = FakeDeadLetters(self.stream)

    async def set_rules(self, camera_id: str = "gate", **rules: Any) -> None:
        """The camera's rules from now on."""
        value = msgspec.json.encode(msgspec.convert(rules, Rules))
        await self.values.put(CAMERAS, camera_id, value)

    def put(self, key: str, content: bytes, content_type: str = "image/jpeg") -> str:
        """An object in the bucket."""
        self.objects.add(key, content, content_type)
        return key

    def frame(self, picture: bytes, *, seconds: float = 0, camera_id: str = "gate") -> Frame:
        """A frame that came over HTTP, captured so long after noon."""
        key = self.put(f"frames/{camera_id}/{new_id()}.jpg", picture)
        return Frame(key=key, captured_at=NOON + timedelta(seconds=seconds), client_id="alice")

    async def detect(
        self,
        frame: Frame,
        *,
        camera_id: str = "gate",
        subject: str | None = None,
        attempt: int = 1,
        stored_at: datetime = NOON,
        **ports: Any,
    ) -> None:
        """Run the detector's handler on a frame."""
        given = {
            "objects": self.objects,
            "pictures": FakePictureDecoder(),
            "inference": self.inference,
            "stream": self.stream,
            "values": self.values,
            "tally": self.tally,
            "limits": self.limits,
        }
        envelope = Envelope(subject or frame_subject(camera_id), attempt, stored_at)
        await detect.detect.handler(frame, envelope, **(given | ports))

    def alerts(self, subject: str = "events.alert.*") -> list[Alert]:
        """All facts on `subject`, in their order."""
        return [
            msgspec.json.decode(record.data, type=Alert) for record in self.stream.records(subject)
        ]

    def keep_jobs(self) -> list[KeepJob]:
        """All orders to keep pictures."""
        records = self.stream.records(KEEP_SUBJECT)
        return [msgspec.json.decode(record.data, type=KeepJob) for record in records]

    def discarded(self) -> list[str]:
        """Keys of all orders to discard, in their order."""
        records = self.stream.records(DISCARD_SUBJECT)
        jobs = [msgspec.json.decode(record.data, type=DiscardJob) for record in records]
        return [key for job in jobs for key in job.keys]

    async def work_off(self) -> None:
        """Keep, discard and record whatever has been ordered, as the workers would."""
        for job in self.keep_jobs():
            await keep.keep.handler(job, self.objects, self.stream)
        if keys := self.discarded():
            await discard.discard.handler([DiscardJob(keys=tuple(keys))], self.objects)
        await record.record.handler(self.alerts("events.alert.>"), self.alert_store)

    def counted(self, camera_id: str = "gate") -> dict[str, int]:
        """What was counted of a camera, by name."""
        return {name: count for (of, name), count in self.tally.sums.items() if of == camera_id}


@pytest.fixture
def limits() -> Limits:
    return Limits(
        max_upload_bytes=1 << 20,
        max_pixels=100_000_000,
        max_frame_bytes=1 << 20,
        allow_private_callbacks=False,
        webhook_secret=b"",
    )


@pytest.fixture
def make_yard(seeing: Callable[[], SeeingInference], limits: Limits) -> Callable[[], Yard]:
    return lambda: Yard(seeing(), limits)


@pytest.fixture
def yard(make_yard: Callable[[], Yard]) -> Yard:
    return make_yard()


@pytest.fixture(name="at_every_step", scope="session")
def _at_every_step() -> Callable[..., Awaitable[int]]:
    return at_every_step


@pytest.fixture(scope="session")
def crash() -> type[Exception]:
    return Crash


@pytest.fixture(scope="session")
def picture() -> Callable[..., bytes]:
    """Makes a picture file of some size."""

    def make(width: int = 640, height: int = 480, suffix: str = ".jpg", **options: Any) -> bytes:
        image = (pyvips.Image.xyz(width, height) % 256).bandjoin(90).cast("uchar")
        image = image.copy(interpretation="srgb")
        if orientation := options.pop("orientation", None):
            image = image.copy()
            image.set_type(pyvips.GValue.gint_type, "orientation", orientation)
        return bytes(image.write_to_buffer(suffix, **options))

    return make


@pytest.fixture(scope="session")
def jpeg(picture: Callable[..., bytes]) -> bytes:
    """A frame of 640 x 480: twice the detector's 320 x 240."""
    return picture()


@pytest.fixture(scope="session")
def new_alert() -> Callable[..., Alert]:
    """Makes alerts that differ from one another by what the test says."""

    def make(number: int = 0, *, camera_id: str = "gate", **facts: Any) -> Alert:
        seconds = timedelta(seconds=number)
        defaults: dict[str, Any] = {
            "alert_id": new_id(),
            "label": "person",
            "score": 0.9,
            "box": Box(x=0.1, y=0.2, width=0.3, height=0.4),
            "captured_at": NOON + seconds,
            "created_at": NOON + seconds,
            "model": "nanodet-g-416",
            "model_version": "1",
            "frame_key": f"frames/{camera_id}/{number}.jpg",
        }
        return Alert(camera_id=camera_id, **(defaults | facts))

    return make


class Listener:
    """Reads an endless answer piece by piece, which httpx's ASGI transport cannot."""

    def __init__(self) -> None:
        self.status = 0
        self.body = b""
        self._pieces: asyncio.Queue[bytes] = asyncio.Queue()
        self._started = asyncio.Event()

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self._started.set()
        else:
            self._pieces.put_nowait(message.get("body", b""))

    async def started(self) -> None:
        async with asyncio.timeout(60):
            await self._started.wait()

    async def event(self) -> dict[str, Any]:
        """The next event, comments left out; its data decoded."""
        while True:
            fields = dict(
                line.split(": ", 1)
                for line in (await self.block()).split("\n")
                if line and line[0] != ":"
            )
            if fields:
                return {**fields, "data": json.loads(fields["data"])}

    async def block(self) -> str:
        """The next event or comment as it came (WHATWG HTML, 9.2.6)."""
        async with asyncio.timeout(60):
            while b"\r\n\r\n" not in self.body:
                self.body += await self._pieces.get()
        block, _, self.body = self.body.partition(b"\r\n\r\n")
        return block.decode().replace("\r\n", "\n")


@pytest.fixture
def listening(world: World) -> Callable[..., Any]:
    """`async with listening(path, token, last=None) as listener`: a follower, until it leaves."""

    @asynccontextmanager
    async def listen(path: str, token: str, last: str | None = None) -> AsyncIterator[Listener]:
        url, _, query = path.partition("?")
        headers = [(b"authorization", token.encode())]
        if last is not None:
            headers.append((b"last-event-id", last.encode()))
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET",
            "path": url, "raw_path": url.encode(), "query_string": query.encode(),
            "headers": headers, "scheme": "http", "server": ("nereid.test", 80),
            "client": ("127.0.0.1", 1), "root_path": "", "extensions": {},
        }  # fmt: skip
        listener, gone = Listener(), asyncio.Event()
        asked = False

        async def receive() -> dict[str, Any]:
            nonlocal asked
            if not asked:
                asked = True
                return {"type": "http.request", "body": b"", "more_body": False}
            await gone.wait()
            return {"type": "http.disconnect"}

        app: Any = world.app
        answering = asyncio.create_task(app(scope, receive, listener.send))
        try:
            await listener.started()
            yield listener
        finally:
            gone.set()
            async with asyncio.timeout(60):
                await answering

    return listen


@pytest.fixture
def empty_scratch(world: World) -> Any:
    """After the test, nothing is left in the scratch folder."""
    yield
    assert not list(Path(world.scratch).iterdir())
