"""Cancelling, webhooks, several workers."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpx
import nats
import pytest
import pyvips
from aiohttp import web
from tritonclient.grpc.aio import InferenceServerClient

from functions.media.upscale.tiles import plan
from tests.live.conftest import Api, Nereid, client_of, encoded, final_events

MODEL = "realesr-animevideov3-x2"


def plain(width: int, height: int) -> bytes:
    """A JPEG without anything on it."""
    return encoded((pyvips.Image.black(width, height, bands=3) + 90).cast("uchar"), ".jpg")


@pytest.fixture(scope="module")
def large_photo() -> bytes:
    """Tiles that keep two cores busy until it is cancelled."""
    return plain(1600, 1200)


async def inferences(system: Nereid) -> int:
    """Requests of `MODEL` that Triton has finished, in whichever way."""
    async with InferenceServerClient(system.running["triton_url"]) as triton:
        statistics = await triton.get_inference_statistics(MODEL)
    (model,) = statistics.model_stats
    counts = model.inference_stats
    return int(counts.success.count + counts.fail.count)


async def cancelled(api: Api, task_id: str) -> dict[str, Any]:
    answer = await api.http.post(f"/api/v1/media/processingTasks/{task_id}:cancel")
    assert answer.status_code == 200, answer.text
    row: dict[str, Any] = answer.json()
    return row


async def test_a_running_task_is_cancelled_at_once_and_leaves_triton_alone(
    api: Api, system: Nereid, photo: bytes
) -> None:
    await api.run(photo)
    before = await inferences(system)
    width, height = 2400, 1600
    task_id = await api.process(await api.upload(plain(width, height)))
    await api.first(task_id, lambda event: event.data["progress"] > 0)
    assert (await cancelled(api, task_id))["status"] == "cancelled"
    events = [event async for event in api.events(task_id)]
    assert events[-1].name == "cancelled"
    await api.run(photo)  # it waits for a free stream, behind whatever was sent before
    tiles = plan(height, width, halo=19, max_tile_pixels=600_000, parallel=2)
    assert await inferences(system) - before < len(tiles)
    assert not list((system.data / "s3" / "nereid" / "results").glob(f"{task_id}/*"))
    assert (await cancelled(api, task_id))["status"] == "cancelled"


async def test_a_waiting_task_that_is_cancelled_never_runs(
    api: Api, photo: bytes, large_photo: bytes
) -> None:
    path = await api.upload(large_photo)
    busy = [await api.process(path) for _ in range(2)]
    for task_id in busy:
        await api.first(task_id, lambda event: event.name == "processing")
    waiting = await api.process(path)
    assert (await cancelled(api, waiting))["status"] == "cancelled"
    for task_id in busy:
        await cancelled(api, task_id)
    await api.run(photo)  # it was queued behind
    assert [event.name async for event in api.events(waiting)] == ["queued", "cancelled"]
    row = await api.finished(waiting)
    assert (row["attempts"], row["started_at"]) == (0, None)
    assert row["finished_at"] is not None


async def test_a_late_event_is_not_shown(api: Api, system: Nereid, large_photo: bytes) -> None:
    task_id = await api.process(await api.upload(large_photo))
    await api.first(task_id, lambda event: event.name == "processing")
    connection = await nats.connect(system.running["nats_url"])
    stream = connection.jetstream()
    subject = f"events.task.{task_id}"
    kept = await stream.subscribe(subject, ordered_consumer=True)
    messages = [await kept.next_msg(timeout=60) for _ in range(2)]
    queued = next(m.data for m in messages if json.loads(m.data)["status"] == "queued")
    await stream.publish(subject, queued)  # as if the gateway had been slow
    await connection.close()
    await cancelled(api, task_id)
    names = [event.name async for event in api.events(task_id)]
    assert "queued" not in names[names.index("processing") :]
    assert names[-1] == "cancelled"


async def test_what_is_finished_cannot_be_cancelled(api: Api, photo: bytes) -> None:
    task_id = (await api.run(photo))["task_id"]
    answer = await api.http.post(f"/api/v1/media/processingTasks/{task_id}:cancel")
    assert (answer.status_code, answer.json()["code"]) == (409, "task_already_finished")
    assert (await api.status(task_id))["status"] == "completed"


async def test_an_urgent_photo_does_not_wait_behind_large_ones(
    api: Api, photo: bytes, large_photo: bytes
) -> None:
    path = await api.upload(large_photo)
    busy = [await api.process(path, priority=1) for _ in range(3)]
    urgent = await api.process(await api.upload(photo), priority=10)
    assert (await api.finished(urgent))["status"] == "completed"
    assert (await api.status(busy[-1]))["status"] in {"queued", "processing"}
    for task_id in busy:
        await api.http.post(f"/api/v1/media/processingTasks/{task_id}:cancel")


class Receiver:
    """A web server that keeps what it is sent, at an address that is known before it listens."""

    def __init__(self, taken: socket.socket) -> None:
        self._socket = taken
        self.url = f"http://127.0.0.1:{taken.getsockname()[1]}/hook"
        self.received: asyncio.Queue[tuple[dict[str, str], bytes]] = asyncio.Queue()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        async def take(request: web.Request) -> web.Response:
            headers = {name.lower(): value for name, value in request.headers.items()}
            self.received.put_nowait((headers, await request.read()))
            return web.Response()

        app = web.Application()
        app.router.add_post("/hook", take)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.SockSite(runner, self._socket).start()
        try:
            yield
        finally:
            await runner.cleanup()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield Receiver(taken)


async def webhooks_left(system: Nereid) -> int:
    """Webhooks that still wait to be delivered."""
    connection = await nats.connect(system.running["nats_url"])
    try:
        info = await connection.jetstream().stream_info("JOBS", subjects_filter="jobs.tasks.>")
        return sum((info.state.subjects or {}).values())
    finally:
        await connection.close()


def checked(system: Nereid, headers: dict[str, str], body: bytes) -> dict[str, Any]:
    """The body of a webhook whose signature holds (standardwebhooks.com)."""
    content = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    secret = system.running["webhook_secret"].encode()
    digest = base64.b64encode(hmac.new(secret, content, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{digest}"
    found: dict[str, Any] = json.loads(body)
    return found


async def test_a_final_state_is_told_once_signed_even_if_the_receiver_was_down(
    api: Api, system: Nereid, photo: bytes, receiver: Receiver
) -> None:
    path = await api.upload(photo)
    task_id = await api.process(path, callback_url=receiver.url)
    row = await api.finished(task_id)
    log = system.data / "logs" / "worker.log"
    async with asyncio.timeout(60):
        while f"webhook_unreachable: {receiver.url.removesuffix('/hook')}" not in log.read_text():
            await asyncio.sleep(0.02)
    async with receiver.listening():
        async with asyncio.timeout(60):
            headers, body = await receiver.received.get()
            while await webhooks_left(system):
                await asyncio.sleep(0.02)
        told = checked(system, headers, body)
        assert (told["type"], told["timestamp"]) == ("task.completed", row["finished_at"])
        assert told["data"]["task_id"] == task_id
        assert told["data"]["result"]["sha256"] == row["result"]["sha256"]

        failing = await api.process(
            await api.upload(photo[: len(photo) // 2]), callback_url=receiver.url
        )
        assert (await api.finished(failing))["status"] == "failed"
        async with asyncio.timeout(60):
            told = checked(system, *await receiver.received.get())
            while await webhooks_left(system):
                await asyncio.sleep(0.02)
        assert (told["type"], told["data"]["task_id"]) == ("task.failed", failing)
        assert told["data"]["error"]["code"] == "corrupt_picture"
    assert receiver.received.empty()


@contextmanager
def running(system: Nereid, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Another process of the system, which ends with status 0 when it is told to."""
    process = system.spawn(*arguments)
    try:
        yield process
        process.terminate()
        assert process.wait(120) == 0
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


async def test_several_workers_share_the_tasks_and_none_is_done_twice(
    api: Api, system: Nereid, photo: bytes
) -> None:
    only = ("work", "--only", "media.upscale")
    with running(system, *only) as first, running(system, *only) as second:
        for worker in (first, second):
            assert worker.stdout is not None
            line = await asyncio.to_thread(worker.stdout.readline)
            assert line == "ready media.upscale\n"
        path = await api.upload(photo)
        task_ids = [await api.process(path) for _ in range(12)]
        rows = [await api.finished(task_id) for task_id in task_ids]
    assert [(row["status"], row["attempts"]) for row in rows] == [("completed", 1)] * 12
    assert len({row["result"]["file_path"] for row in rows}) == 12
    for task_id in task_ids:
        assert len(await final_events(system, task_id)) == 1


async def answers(port: int) -> bool:
    """Whether something listens at `port`."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    await writer.wait_closed()
    return True


async def test_one_function_can_be_served_alone(api: Api, system: Nereid, photo: bytes) -> None:
    task_id = (await api.run(photo))["task_id"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with running(system, "serve", "--only", "tasks.status", "--port", str(port)):
        async with client_of(system, "me") as http:
            http.base_url = httpx.URL(f"http://127.0.0.1:{port}")
            async with asyncio.timeout(60):
                while not await answers(port):
                    await asyncio.sleep(0.05)
            answer = await http.get(f"/api/v1/media/processingTasks/{task_id}")
            assert answer.status_code == 200
            assert answer.json()["status"] == "completed"
            for method, path in (
                ("POST", "/api/v1/media"),
                ("GET", "/api/v1/media/processingTasks"),
                ("GET", "/health/live"),
            ):
                assert (await http.request(method, path)).status_code == 404


async def test_a_function_that_is_not_there_stops_the_start_with_the_names_that_are(
    system: Nereid,
) -> None:
    refused = await asyncio.to_thread(system.command, "work", "--only", "media.upscal")
    assert refused.returncode != 0
    assert "media.upscal" in refused.stderr
    assert "media.upscale" in refused.stderr
    assert "Traceback" not in refused.stderr
