from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from ipaddress import ip_address

import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer

from functions._kit.errors import JobFailed, RetryJob
from functions._kit.messages import new_id, now
from functions._kit.ports import Limits
from functions.tasks import webhook as module
from functions.tasks.contracts import Status, Task, TaskError, TaskRow, WebhookJob
from functions.tasks.webhook import webhook

LIMITS = Limits(
    max_upload_bytes=1,
    max_pixels=1,
    allow_private_callbacks=True,
    webhook_secret=b"the secret",
)
PUBLIC_ONLY = replace(LIMITS, allow_private_callbacks=False)


@dataclass(slots=True)
class Receiver:
    """A server of somebody else's."""

    port: int = 0
    answers: list[web.Response] = field(default_factory=list)
    """What it will answer, in turn; 204 afterwards."""
    heard: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)

    async def hear(self, request: web.Request) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.heard.append((request.path_qs, headers, await request.read()))
        return self.answers.pop(0) if self.answers else web.Response(status=204)


@pytest_asyncio.fixture
async def receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", receiver.hear)
    async with TestServer(app, host="127.0.0.1") as server:
        assert server.port is not None
        receiver.port = server.port
        yield receiver


def job(url: str) -> WebhookJob:
    task = Task(
        task_id=new_id(),
        client_id="alice",
        workflow="nas-photo-processing",
        priority=5,
        created_at=now(),
        callback_url=url,
    )
    return WebhookJob(
        row=TaskRow(
            task=task,
            status=Status.COMPLETED,
            progress=1.0,
            attempts=1,
            finished_at=now(),
            result={"file_path": "results/ü.png"},
        )
    )


async def test_a_final_state_is_told_and_signed(receiver: Receiver) -> None:
    told = job(f"http://127.0.0.1:{receiver.port}/hook?user=a%20b")
    await webhook.handler(told, LIMITS)
    ((path, headers, body),) = receiver.heard
    assert path == "/hook?user=a%20b"
    message_id, stamp = headers["webhook-id"], headers["webhook-timestamp"]
    assert message_id == f"{told.row.task.task_id}:completed"
    assert abs(int(stamp) - time.time()) < 60
    content = f"{message_id}.{stamp}.".encode() + body
    digest = hmac.new(b"the secret", content, hashlib.sha256).digest()
    assert headers["webhook-signature"] == f"v1,{base64.b64encode(digest).decode()}"
    assert headers["content-type"] == "application/json"
    sent = json.loads(body)
    assert sent["timestamp"] is not None
    assert sent == {
        "type": "task.completed",
        "timestamp": sent["timestamp"],
        "data": {
            "task_id": told.row.task.task_id,
            "status": "completed",
            "workflow": "nas-photo-processing",
            "result": {"file_path": "results/ü.png"},
            "error": None,
        },
    }


async def test_a_failure_is_told_with_its_reason(receiver: Receiver) -> None:
    completed = job(f"http://127.0.0.1:{receiver.port}/")
    row = TaskRow(
        task=completed.row.task,
        status=Status.FAILED,
        progress=0.5,
        attempts=1,
        error=TaskError(code="corrupt_picture", message="cut"),
    )
    await webhook.handler(WebhookJob(row=row), LIMITS)
    sent = json.loads(receiver.heard[0][2])
    assert sent["type"] == "task.failed"
    assert sent["data"]["error"] == {"code": "corrupt_picture", "message": "cut"}


@pytest.mark.parametrize("status", [200, 201, 204])
async def test_any_2xx_is_heard(receiver: Receiver, status: int) -> None:
    receiver.answers = [web.Response(status=status)]
    await webhook.handler(job(f"http://127.0.0.1:{receiver.port}/"), LIMITS)
    assert len(receiver.heard) == 1


@pytest.mark.parametrize("status", [400, 401, 404, 410, 429, 500, 503])
async def test_any_other_answer_is_tried_again_with_the_same_id(
    receiver: Receiver, status: int
) -> None:
    receiver.answers = [web.Response(status=status)]
    told = job(f"http://127.0.0.1:{receiver.port}/")
    with pytest.raises(RetryJob) as caught:
        await webhook.handler(told, LIMITS)
    assert caught.value.code == "webhook_refused"
    await webhook.handler(told, LIMITS)
    first, second = receiver.heard
    assert first[1]["webhook-id"] == second[1]["webhook-id"]
    assert first[2] == second[2]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_no_redirect_is_followed(receiver: Receiver, status: int) -> None:
    elsewhere = {"Location": f"http://127.0.0.1:{receiver.port}/elsewhere"}
    receiver.answers = [web.Response(status=status, headers=elsewhere)]
    with pytest.raises(RetryJob):
        await webhook.handler(job(f"http://127.0.0.1:{receiver.port}/hook"), LIMITS)
    assert [path for path, _, _ in receiver.heard] == ["/hook"]


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "127.1", "2130706433", "0x7f000001", "017700000001", "0.0.0.0",
     "0", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]"],
)  # fmt: skip
async def test_no_spelling_of_this_machine_is_called(receiver: Receiver, host: str) -> None:
    with pytest.raises(JobFailed) as caught:
        await webhook.handler(job(f"http://{host}:{receiver.port}/"), PUBLIC_ONLY)
    assert caught.value.code in {"private_callback_url", "invalid_callback_url"}
    assert not receiver.heard


@pytest.mark.parametrize(
    "host",
    ["10.0.0.1", "192.168.1.1", "169.254.169.254", "[fd00::1]", "[64:ff9b::a9fe:a9fe]",
     "[2002:a9fe:a9fe::]", "[::10.0.0.1]", "[fec0::1]", "100.64.0.1", "224.0.0.1"],
)  # fmt: skip
async def test_no_private_address_is_called(host: str) -> None:
    with pytest.raises(JobFailed) as caught:
        await webhook.handler(job(f"http://{host}/"), PUBLIC_ONLY)
    assert caught.value.code == "private_callback_url"


async def test_a_name_is_checked_by_where_it_leads(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that anybody may let point to a private address."""

    async def resolve(_: object, host: str, port: int = 0, family: int = 0) -> list[object]:
        del family
        public = {"hostname": host, "host": "93.184.215.14", "port": port}
        return [
            {**public, "family": 2, "proto": 0, "flags": 0},
            {**public, "host": "127.0.0.1", "family": 2, "proto": 0, "flags": 0},
        ]

    monkeypatch.setattr("aiohttp.ThreadedResolver.resolve", resolve)
    told = job(f"http://hooks.example.org:{receiver.port}/")
    with pytest.raises(JobFailed) as caught:
        await webhook.handler(told, PUBLIC_ONLY)
    assert caught.value.code == "private_callback_url"
    assert not receiver.heard


async def test_a_name_is_called_where_it_was_checked_and_asked_once(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that leads elsewhere the second time (DNS rebinding) is asked no second time."""
    asked: list[str] = []

    async def resolve(_: object, host: str, port: int = 0, family: int = 0) -> list[object]:
        del family
        asked.append(host)
        address = "127.0.0.1" if len(asked) == 1 else "10.0.0.1"
        return [
            {"hostname": host, "host": address, "port": port, "family": 2, "proto": 0, "flags": 0}
        ]

    monkeypatch.setattr("aiohttp.ThreadedResolver.resolve", resolve)
    checked: list[str] = []

    def is_public(address: str) -> bool:
        ip_address(address)  # raises for a name, as the real one does
        checked.append(address)
        # loopback stands for a public address here
        return address == "127.0.0.1"

    monkeypatch.setattr(module, "is_public", is_public)
    await webhook.handler(job(f"http://hooks.example.org:{receiver.port}/hook"), PUBLIC_ONLY)
    assert asked == ["hooks.example.org"]
    assert "127.0.0.1" in checked
    assert [path for path, _, _ in receiver.heard] == ["/hook"]


async def test_what_is_told_of_a_failure_holds_no_secret_of_the_url(
    receiver: Receiver, unused_tcp_port: int
) -> None:
    receiver.answers = [web.Response(status=500)]
    for port in (receiver.port, unused_tcp_port):
        url = f"http://127.0.0.1:{port}/hook/very-secret?token=also-secret"
        with pytest.raises(RetryJob) as caught:
            await webhook.handler(job(url), LIMITS)
        assert "secret" not in caught.value.message
        assert f"http://127.0.0.1:{port}" in caught.value.message


async def test_nobody_there_is_tried_again(unused_tcp_port: int) -> None:
    with pytest.raises(RetryJob) as caught:
        await webhook.handler(job(f"http://127.0.0.1:{unused_tcp_port}/"), LIMITS)
    assert caught.value.code == "webhook_unreachable"


async def test_a_receiver_that_never_answers_is_left_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "TIMEOUT_S", 0.2)
    callers: list[asyncio.StreamWriter] = []
    silent = await asyncio.start_server(lambda _, w: callers.append(w), "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    with pytest.raises(RetryJob) as caught:
        async with asyncio.timeout(60):
            await webhook.handler(job(f"http://127.0.0.1:{port}/"), LIMITS)
    assert caught.value.code == "webhook_unreachable"
    for caller in callers:
        caller.close()
        await caller.wait_closed()
    silent.close()
    await silent.wait_closed()
