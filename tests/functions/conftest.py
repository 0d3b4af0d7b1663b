"""The whole HTTP side over fakes, and what the tests of functions share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
import pytest_asyncio
import pyvips
from litestar import Litestar
from numpy.typing import NDArray

from functions._kit.capabilities import DEFAULT_MODELS
from functions._kit.fakes import (
    FakeAlertStore,
    FakeAudioConverter,
    FakeClientStore,
    FakeDeadLetters,
    FakeFigures,
    FakeInference,
    FakeKeyValue,
    FakeLanguageModel,
    FakeMetrics,
    FakeObjects,
    FakePictureDecoder,
    FakeStream,
    FakeTally,
    FakeTaskStore,
)
from functions._kit.in_flight import InFlight
from functions._kit.messages import new_id, now
from functions._kit.ports import Client, Limits, Probes, ServedModel, TensorSpec
from functions._kit.secrets import hash_secret
from functions.tasks.contracts import Status, Task, TaskEvent, event_subject, final_id
from gateway import asgi
from gateway.auth import Authenticator, Tokens, api_key_lookup
from gateway.registry import discover

DETECTOR = DEFAULT_MODELS["detect"]
SECRET = "a secret of the tests, of 256 bits or more"
MEDIA = ("media:read", "media:write")
LIMITS: dict[str, Any] = {
    "max_upload_bytes": 200_000,
    "max_pixels": 1_000_000,
    "allow_private_callbacks": False,
    "webhook_secret": b"webhook secret",
}


class SeeingInference(FakeInference):
    """Serves a detector and speech models, too: in every picture it sees what `sees` says.

    Rows of (x, y, width, height, score, class) in pixels of its input, 320 x 240. Where sound is
    loud it hears speech, and the words `says`; while `open` is cleared, hearers wait.
    """

    labels = ("person", "car", "dog", "cup")

    def __init__(self) -> None:
        super().__init__()
        self.detectors = {DETECTOR: self.detector(DETECTOR)}
        self.sees: list[tuple[float, ...]] = []
        self.looked_at: list[NDArray[Any]] = []
        self.speech = {
            "silero-vad": ServedModel("silero-vad", "1", {}),
            "moonshine-tiny-en": ServedModel("moonshine-tiny-en", "1", {"language": "en"}),
        }
        self.says = "it was the best of times"
        self.open = asyncio.Event()
        self.open.set()
        self.hearing = 0
        self.asked = asyncio.Event()
        """Set once somebody has asked for words."""
        self.heard_at: list[int] = []
        """Triton's priority of each piece of speech."""

    def detector(self, name: str, labels: tuple[str, ...] = labels) -> ServedModel:
        """A model that keeps the contract of `detect`."""
        return ServedModel(
            name,
            "1",
            {"capability": "detect", "labels": ",".join(labels), "min_score": "0.2"},
            {"image": TensorSpec("UINT8", (240, 320, 3))},
            {"detections": TensorSpec("FP32", (100, 6))},
        )

    def described(self, name: str, version: str) -> ServedModel:
        served = self.detectors | self.speech
        if name not in served:
            return super().described(name, version)
        return replace(served[name], version=version)

    async def model_names(self) -> frozenset[str]:
        return await super().model_names() | self.detectors.keys() | self.speech.keys()

    async def answer(
        self, model: ServedModel, inputs: dict[str, NDArray[Any]], priority: int
    ) -> dict[str, NDArray[Any]]:
        if model.name in self.speech:
            return await self._hear(inputs, priority)
        if model.name not in self.detectors:
            return await super().answer(model, inputs, priority)
        assert inputs["image"].shape == (1, 240, 320, 3)
        assert inputs["image"].dtype == np.uint8
        self.requests += 1
        self.looked_at.append(inputs["image"][0])
        rows = np.zeros((1, 100, 6), np.float32)
        for number, row in enumerate(self.sees):
            rows[0, number] = row
        return {"detections": rows}

    async def _hear(self, inputs: dict[str, NDArray[Any]], priority: int) -> dict[str, Any]:
        if "input" in inputs:
            loud = np.abs(inputs["input"][:, 64:]).max(axis=1) > 0.05
            return {"speech_probs": loud.astype(np.float32), "hn": inputs["h"], "cn": inputs["c"]}
        self.heard_at.append(priority)
        self.hearing += 1
        self.asked.set()
        try:
            await self.open.wait()
        finally:
            self.hearing -= 1
        return {
            "text": np.array([[self.says.encode()]], object),
            "tokens": np.array([[7, 8, 9]], np.int32),
            "log_probability": np.array([[-0.25]], np.float32),
        }


class World:
    """An app of every function over fakes, and clients that may call it."""

    def __init__(self, scratch: Path, stack: AsyncExitStack, **limits: Any) -> None:
        self.stream = FakeStream()
        self.objects = FakeObjects()
        self.inference = SeeingInference()
        self.store = FakeTaskStore()
        self.alert_store = FakeAlertStore()
        self.values = FakeKeyValue()
        self.language_model = FakeLanguageModel()
        self.converter = FakeAudioConverter()
        self.pictures = FakePictureDecoder()
        self.figures = FakeFigures(self.converter)
        self.metrics = FakeMetrics()
        self.in_flight = InFlight(scratch)
        stack.push_async_callback(self.in_flight.finish)
        self.tally = FakeTally()
        self.dead_letters = FakeDeadLetters(self.stream)
        self.sickness: dict[str, str] = {}
        self.loading: dict[str, str] = {}
        self.clients = FakeClientStore()
        self.limits = Limits(**{**LIMITS, **limits})
        self.tokens = Tokens(SECRET, 3600)
        self.scratch = scratch
        self._stack = stack

    @cached_property
    def app(self) -> Litestar:
        """An app of every function, made when it is first asked for."""
        return self.new_app()

    def new_app(self, *, described: bool = False, **options: Any) -> Litestar:
        """An app of every function; `options` go to `create_app`.

        Its OpenAPI document is whole only if it is `described`, which takes as long as the rest.
        """
        checks = {"queue": self.stream.healthy, "s3": self.objects.healthy}
        checks |= {"database": self.store.healthy, "triton": self.inference.healthy}
        ports = {
            "stream": self.stream,
            "objects": self.objects,
            "inference": self.inference,
            "model_server": self.inference,
            "store": self.store,
            "alert_store": self.alert_store,
            "values": self.values,
            "language_model": self.language_model,
            "converter": self.converter,
            "pictures": self.pictures,
            "figures": self.figures,
            "in_flight": self.in_flight,
            "metrics": self.metrics,
            "dead_letters": self.dead_letters,
            "clients": self.clients,
            "tokens": self.tokens,
            "limits": self.limits,
            "probes": Probes(checks, lambda: self.sickness, lambda: self.loading),
            "scratch": self.scratch,
        }
        authenticator = Authenticator(self.clients, self.tokens, SECRET)
        with pytest.MonkeyPatch.context() as patch:
            if not described:
                patch.setattr(asgi, "complete", lambda _app: None)
            return asgi.create_app(discover(), ports, authenticator, **options)

    async def http(self, app: Litestar | None = None, **headers: str) -> httpx.AsyncClient:
        """A caller without credentials; `headers` go with each of its requests."""
        caller = httpx.AsyncClient(
            transport=httpx.ASGITransport(app or self.app),  # type: ignore[arg-type]
            base_url="http://nereid.test",
            headers=headers,
        )
        return await self._stack.enter_async_context(caller)

    async def caller(self, client_id: str, *scopes: str) -> httpx.AsyncClient:
        """A caller with a token."""
        client = Client(client_id=client_id, secret_hash="-", scopes=frozenset(scopes))
        await self.clients.add(client)
        return await self.http(Authorization=f"Bearer {self.tokens.issue(client)}")

    async def add_key(self, client_id: str, key: str, *scopes: str) -> None:
        """A client with an API key."""
        await self.clients.add(
            Client(
                client_id=client_id,
                secret_hash="-",
                scopes=frozenset(scopes),
                api_key_lookup=api_key_lookup(self.tokens._secret, key),
                api_key_hash=hash_secret(key),
            )
        )

    async def add_task(
        self, client_id: str = "alice", *, callback_url: str | None = None, workflow: str = ""
    ) -> Task:
        """A queued task, in the stream and in the table."""
        task = Task(
            task_id=new_id(),
            client_id=client_id,
            workflow=workflow or "nas-photo-processing",
            priority=5,
            created_at=now(),
            callback_url=callback_url,
        )
        await self.tell(task, Status.QUEUED)
        return task

    async def tell(self, task: Task, status: Status, **facts: Any) -> TaskEvent:
        """Something happens to the task: the stream and the table know."""
        event_id = final_id(task.task_id) if status.final else new_id()
        event = TaskEvent(event_id=event_id, task=task, status=status, at=now(), **facts)
        await self.stream.publish(event_subject(task.task_id), event, message_id=event_id)
        await self.store.record([event])
        return event

    def jobs(self, subject: str = "jobs.>") -> list[dict[str, Any]]:
        """All jobs that were published on `subject`, as plain objects."""
        return [msgspec.json.decode(record.data) for record in self.stream.records(subject)]


@dataclass(slots=True)
class FakeRun:
    """One attempt at a job; it remembers the progress that it was told."""

    scratch: Path
    attempt: int = 1
    told: list[float] = field(default_factory=list)

    def progress(self, fraction: float) -> None:
        self.told.append(fraction)


@pytest_asyncio.fixture
async def make_world(tmp_path: Path) -> AsyncIterator[Callable[..., World]]:
    """Makes a world with limits of the test's own."""
    async with AsyncExitStack() as stack:
        yield lambda **limits: World(tmp_path, stack, **limits)


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    return make_world()


@pytest_asyncio.fixture
async def alice(world: World) -> httpx.AsyncClient:
    """A caller who may do everything with media."""
    return await world.caller("alice", *MEDIA)


@pytest_asyncio.fixture
async def bob(world: World) -> httpx.AsyncClient:
    """Another such caller."""
    return await world.caller("bob", *MEDIA)


@pytest_asyncio.fixture
async def operator(world: World) -> httpx.AsyncClient:
    """A caller who sees everybody's tasks."""
    return await world.caller("operator", *MEDIA, "system:read")


@pytest_asyncio.fixture
async def nobody(world: World) -> httpx.AsyncClient:
    """A caller without credentials."""
    return await world.http()


@pytest_asyncio.fixture
async def described(world: World) -> httpx.AsyncClient:
    """A caller without credentials, of an app with its whole OpenAPI document."""
    return await world.http(world.new_app(described=True))


@pytest.fixture
def seeing() -> type[SeeingInference]:
    """Makes a Triton with a detector."""
    return SeeingInference


@pytest.fixture
def run(tmp_path: Path) -> FakeRun:
    scratch = tmp_path / "attempt"
    scratch.mkdir()
    return FakeRun(scratch)


@pytest.fixture(scope="session")
def photo() -> bytes:
    """A JPEG of 12 x 8 pixels."""
    picture = pyvips.Image.xyz(12, 8).bandjoin(0).cast("uchar").copy(interpretation="srgb")
    return bytes(picture.jpegsave_buffer(Q=95))


@pytest.fixture
def assert_problem() -> Callable[..., dict[str, Any]]:
    """Checks an error answer's form, status and code, and gives its body."""

    def check(
        answer: httpx.Response, status: int, code: str, where: str | None = None
    ) -> dict[str, Any]:
        assert answer.status_code == status, answer.text
        assert answer.headers["content-type"].startswith("application/problem+json")
        body: dict[str, Any] = answer.json()
        assert (body["status"], body["code"], body.get("field")) == (status, code, where)
        assert body["detail"]
        assert len(answer.content) < 2000, "an answer repeats its question"
        return body

    return check
