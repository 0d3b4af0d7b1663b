"""The whole system as a user has it: `nereid up` in processes of its own, spoken to over HTTP."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import nats
import psutil
import pytest
import pytest_asyncio
import pyvips

NEREID = str(Path(sys.executable).with_name("nereid"))
PHOTO = Path(__file__).parents[1] / "data" / "coffee.png"
FINAL = {"completed", "failed", "cancelled"}
PARTS = {
    "worker": "nereid work",
    "gateway": "nereid serve",
    "queue": "nats-server",
    "s3": "rclone serve",
    "database": "bin/postgres",
    "triton": "bin/tritonserver",
}
"""How the command line of each part is known, by the names of /health/ready."""
SECRET, KEY = "the-secret-of-{}", "the-api-key-of-{}"


class Nereid:
    """A `nereid up` on the folder `data`, with `settings` as its NEREID_* variables."""

    def __init__(self, data: Path, **settings: object) -> None:
        self.data = data
        self.url = ""
        self.environment = {
            name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ
        } | {f"NEREID_{name.upper()}": str(value) for name, value in settings.items()}
        self._seen: set[psutil.Process] = set()
        self._up: subprocess.Popen[str]

    def start(self, *, models: bool = True) -> None:
        """Return once it takes work and, with `models`, has loaded the first ones."""
        with (self.data.parent / f"{self.data.name}.log").open("a") as log:
            said = len(self.said())
            self._up = subprocess.Popen(
                [NEREID, "up", "--data", str(self.data), "--port", "0"],
                env=self.environment,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        assert self._up.stdout is not None
        word, _, self.url = self._up.stdout.readline().strip().partition(" ")
        assert word == "ready", self.said()
        deadline = time.monotonic() + 300
        while models and "\nmodels    loaded" not in self.said()[said:]:
            assert self._up.poll() is None, self.said()
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.05)

    def stop(self) -> None:
        """SIGTERM, as a service manager sends it; nothing may be left of it."""
        everything = self._seen | set(self.processes())
        self._up.send_signal(signal.SIGTERM)
        assert self._up.wait(120) == 0, self.said()
        assert self._up.stdout is not None
        self._up.stdout.close()
        # a killed process needs a moment to give its memory back
        _, left = psutil.wait_procs(everything, timeout=60)
        assert left == []
        with (self.data / "lock").open() as lock:  # every server holds it as long as it lives
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def crash(self) -> None:
        """Kill -9 of everything at once, `nereid up` first, so that nobody tidies up."""
        everything = self.processes()
        for process in everything:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._up.wait()
        psutil.wait_procs(everything[1:], timeout=60)
        assert self._up.stdout is not None
        self._up.stdout.close()

    def kill_all(self) -> None:
        """End what a failed test left behind."""
        if self._up.poll() is None:
            self._up.terminate()
            self._up.wait(120)
        if self._up.stdout is not None:
            self._up.stdout.close()

    def said(self) -> str:
        """What `nereid up` wrote to stderr."""
        return (self.data.parent / f"{self.data.name}.log").read_text()

    def processes(self) -> list[psutil.Process]:
        """Everything that runs below `nereid up`, and itself."""
        up = psutil.Process(self._up.pid)
        found = [up, *up.children(recursive=True)]
        self._seen |= set(found)
        return found

    def part(self, name: str) -> psutil.Process:
        """The main process of a part."""
        children = self.processes()[0].children()
        return next(p for p in children if PARTS[name] in " ".join(p.cmdline()))

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run another `nereid` command on the same data folder."""
        return subprocess.run(
            [NEREID, *arguments, "--data", str(self.data)],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def spawn(self, *arguments: str) -> subprocess.Popen[str]:
        """Start another `nereid` command on the same data folder."""
        return subprocess.Popen(
            [NEREID, *arguments, "--data", str(self.data)],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def add_clients(self, **scopes: str) -> None:
        """`nereid clients add` for each name; scopes "" are the ordinary ones."""
        adding = [
            self.spawn(
                *("clients", "add", name, "--secret", SECRET.format(name)),
                *("--api-key", KEY.format(name)),
                *(("--scopes", wanted) if wanted else ()),
            )
            for name, wanted in scopes.items()
        ]
        for process in adding:
            process.communicate()
            assert process.returncode == 0

    @property
    def running(self) -> dict[str, str]:
        """Addresses and secrets of the embedded servers."""
        found: dict[str, str] = json.loads((self.data / "running.json").read_text())
        return found


@contextmanager
def frozen(nereid: Nereid, name: str) -> Iterator[psutil.Process]:
    """A part that stands still; if it is killed meanwhile, its children wake as orphans."""
    main = nereid.part(name)
    processes = [main, *main.children(recursive=True)]
    for process in processes:
        process.suspend()
    try:
        yield main
    finally:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.resume()


@dataclass(frozen=True, slots=True)
class Event:
    """One server-sent event of a task."""

    id: str
    name: str
    data: dict[str, Any]


class Api:
    """The system as one client sees it."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http

    async def upload(self, photo: bytes) -> str:
        answer = await self.http.post("/api/v1/media", content=photo)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["file_path"])

    async def send(self, file_path: str, **body: Any) -> httpx.Response:
        """POST media:process; what is not a member of the body belongs to `image_enhance`."""
        members = {"workflow", "priority", "callback_url", "output"}
        enhance = {name: value for name, value in body.items() if name not in members}
        parameters = {"image_enhance": enhance}
        if "output" in body:
            parameters["output"] = body.pop("output")
        rest = {name: value for name, value in body.items() if name in members}
        return await self.http.post(
            "/api/v1/media:process",
            json={"file_path": file_path, "workflow": "nas-photo-processing"}
            | rest
            | {"parameters": parameters},
        )

    async def process(self, file_path: str, **body: Any) -> str:
        """Start a task; return its id."""
        answer = await self.send(file_path, **body)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["task_id"])

    async def status(self, task_id: str) -> dict[str, Any]:
        answer = await self.http.get(f"/api/v1/media/processingTasks/{task_id}")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def events(self, task_id: str, after: str | None = None) -> AsyncIterator[Event]:
        """A task's events as they come, to the final one."""
        headers = {} if after is None else {"Last-Event-ID": after}
        path = f"/api/v1/media/processingTasks/{task_id}/events"
        async with self.http.stream("GET", path, headers=headers) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            fields: dict[str, str] = {}
            async for line in answer.aiter_lines():
                if line:
                    name, _, value = line.partition(": ")
                    fields[name] = value
                elif fields:
                    if "data" in fields:
                        data = json.loads(fields["data"])
                        yield Event(fields.get("id", ""), fields["event"], data)
                    fields = {}

    async def first(self, task_id: str, wanted: Callable[[Event], bool]) -> Event:
        """The first event that is `wanted`."""
        events = self.events(task_id)
        try:
            async for event in events:
                if wanted(event):
                    return event
        finally:
            await events.aclose()  # type: ignore[attr-defined]
        raise AssertionError(f"{task_id} ended without it")

    async def finished(self, task_id: str) -> dict[str, Any]:
        """The task's row once it is final."""
        await self.first(task_id, lambda event: event.name in FINAL)
        async with asyncio.timeout(60):  # the recorder follows the event within milliseconds
            while (row := await self.status(task_id))["status"] not in FINAL:
                await asyncio.sleep(0.01)
        return row

    async def run(self, photo: bytes, **body: Any) -> dict[str, Any]:
        """Upload, process, wait; return the completed task's row."""
        row = await self.finished(await self.process(await self.upload(photo), **body))
        assert row["status"] == "completed", row["error"]
        return row

    async def download(self, url: str) -> bytes:
        """What a presigned URL gives, without any credentials of ours."""
        async with httpx.AsyncClient(trust_env=False) as nobody:
            answer = await nobody.get(url)
        assert answer.status_code == 200, answer.text
        return answer.content


def client_of(nereid: Nereid, name: str | None) -> httpx.AsyncClient:
    """HTTP with the API key of client `name`, or with no credentials."""
    headers = {} if name is None else {"X-API-Key": KEY.format(name)}
    return httpx.AsyncClient(base_url=nereid.url, headers=headers, timeout=200, trust_env=False)


async def final_events(nereid: Nereid, task_id: str) -> list[dict[str, Any]]:
    """All final events of a task that the queue holds: clients are only ever shown the first."""
    connection = await nats.connect(nereid.running["nats_url"])
    try:
        js = connection.jetstream()
        subscription = await js.subscribe(f"events.task.{task_id}", ordered_consumer=True)
        found: list[dict[str, Any]] = []
        while True:
            message = await subscription.next_msg(timeout=60)
            found.append(json.loads(message.data))
            if message.metadata.num_pending == 0:
                return [event for event in found if event["status"] in FINAL]
    finally:
        await connection.close()


def encoded(image: pyvips.Image, suffix: str, **options: Any) -> bytes:
    """A picture file."""
    return bytes(image.write_to_buffer(suffix, **options))


@pytest.fixture(scope="session")
def image() -> pyvips.Image:
    """A part of a real photo, 96 x 64."""
    return pyvips.Image.new_from_file(str(PHOTO)).crop(240, 160, 96, 64).copy_memory()


@pytest.fixture(scope="session")
def photo(image: pyvips.Image) -> bytes:
    """It as a JPEG."""
    return encoded(image, ".jpg", Q=95)


@pytest.fixture(scope="session")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nereid]:
    """A system for all tests that do not break it."""
    nereid = Nereid(
        tmp_path_factory.mktemp("live") / "data",
        max_upload_bytes=4_000_000,
        allow_private_callbacks=True,
        token_requests_per_minute=10_000,
        wrong_keys_per_minute=10_000,
        wrong_secrets_per_hour=10_000,
    )
    try:
        nereid.start()
        nereid.add_clients(
            me="",
            other="",
            reader="media:read",
            auditor="system:read",
            operator="system:read,system:write",
        )
        yield nereid
        nereid.stop()
    finally:
        nereid.kill_all()


@pytest.fixture
def own_system(tmp_path: Path) -> Iterator[Callable[..., Nereid]]:
    """Makes systems that one test may break; they have the client `me`."""
    made: list[Nereid] = []

    def make(**settings: object) -> Nereid:
        nereid = Nereid(tmp_path / f"data-{uuid.uuid4().hex}", **settings)
        made.append(nereid)
        nereid.start()
        nereid.add_clients(me="")
        return nereid

    yield make
    for nereid in made:
        nereid.kill_all()


@pytest_asyncio.fixture
async def api(system: Nereid) -> AsyncIterator[Api]:
    """The shared system as the client `me` sees it."""
    async with client_of(system, "me") as http:
        yield Api(http)


@pytest_asyncio.fixture
async def nobody(system: Nereid) -> AsyncIterator[httpx.AsyncClient]:
    """The shared system without credentials."""
    async with client_of(system, None) as http:
        yield http


@pytest.fixture
def word() -> str:
    """A word that no other test uses."""
    return uuid.uuid4().hex
