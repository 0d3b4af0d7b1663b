"""Nobody gets in without credentials, nobody sees another's tasks, and nothing is told in logs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import stat
import time
from typing import Any

import httpx
import jwt
import psutil
import pytest

from gateway.auth import REMEMBER_S
from tests.live.conftest import KEY, SECRET, Api, Nereid, client_of

TASKS = "/api/v1/media/processingTasks"
FORGETS_WITHIN_S = 5 * REMEMBER_S
"""A gateway believes a removed client for so long; the rest is for a busy machine."""


async def token_of(http: httpx.AsyncClient, name: str) -> dict[str, Any]:
    answer = await http.post(
        "/api/v1/auth/token",
        json={
            "client_id": name,
            "client_secret": SECRET.format(name),
            "grant_type": "client_credentials",
        },
    )
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def test_a_token_opens_what_its_scopes_allow(nobody: httpx.AsyncClient) -> None:
    token = await token_of(nobody, "reader")
    assert (token["token_type"], token["expires_in"], token["scope"]) == (
        "Bearer",
        3600,
        "media:read",
    )
    headers = bearer(token["access_token"])
    assert (await nobody.get(TASKS, headers=headers)).status_code == 200
    refused = await nobody.post("/api/v1/media", content=b"x", headers=headers)
    assert (refused.status_code, refused.json()["code"]) == (403, "scope_missing")


async def test_a_form_gets_a_token_as_oauth_clients_send_it(nobody: httpx.AsyncClient) -> None:
    form = {
        "client_id": "me",
        "client_secret": SECRET.format("me"),
        "grant_type": "client_credentials",
    }
    answer = await nobody.post("/api/v1/auth/token", data=form)
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"


async def test_a_wrong_secret_and_an_unknown_client_get_the_same_answer(
    nobody: httpx.AsyncClient,
) -> None:
    answers = []
    for name in ("me", "no-such-client"):
        body = {"client_id": name, "client_secret": "x", "grant_type": "client_credentials"}
        answers.append(await nobody.post("/api/v1/auth/token", json=body))
    assert [answer.status_code for answer in answers] == [401, 401]
    assert answers[0].content == answers[1].content


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/v1/media"),
        ("POST", "/api/v1/media:process"),
        ("GET", TASKS),
        ("GET", f"{TASKS}/0192f0c1-2345-7000-8000-000000000000"),
        ("GET", f"{TASKS}/0192f0c1-2345-7000-8000-000000000000/events"),
        ("POST", f"{TASKS}/0192f0c1-2345-7000-8000-000000000000:cancel"),
    ],
)
async def test_without_credentials_that_hold_every_function_answers_401(
    nobody: httpx.AsyncClient, system: Nereid, method: str, path: str
) -> None:
    secret = system.running["token_secret"]
    claims = {"sub": "me", "aud": "nereid", "scope": "media:read media:write"}
    later, past = int(time.time()) + 600, int(time.time()) - 1
    good = jwt.encode(claims | {"exp": later}, secret, "HS256")
    unsigned = jwt.encode(claims | {"exp": later}, "", "none")
    cases: dict[str, dict[str, str]] = {
        "nothing": {},
        "expired": bearer(jwt.encode(claims | {"exp": past}, secret, "HS256")),
        "forged": bearer(jwt.encode(claims | {"exp": later}, "x" * 64, "HS256")),
        "alg none": bearer(unsigned),
        "alg none with a signature": bearer(unsigned + good.rpartition(".")[2]),
        "without end": bearer(jwt.encode(claims, secret, "HS256")),
        "another audience": bearer(jwt.encode(claims | {"aud": "x", "exp": later}, secret)),
        "unknown client": bearer(jwt.encode(claims | {"sub": "x", "exp": later}, secret)),
        "torn": bearer(good[:-4]),
        "wrong key": {"X-API-Key": KEY.format("nobody")},
        "empty key": {"X-API-Key": ""},
        "basic": {"Authorization": "Basic bWU6c2VjcmV0LW9mLW1l"},
        "long": bearer("x" * 10_000),
    }
    for name, headers in cases.items():
        answer = await nobody.request(method, path, headers=headers)
        assert answer.status_code == 401, name
        assert answer.headers["www-authenticate"].startswith("Bearer"), name
        assert answer.headers["content-type"] == "application/problem+json", name


async def test_another_clients_task_is_not_there(api: Api, system: Nereid, photo: bytes) -> None:
    task_id = (await api.run(photo))["task_id"]
    async with client_of(system, "other") as other:
        for answer in (
            await other.get(f"{TASKS}/{task_id}"),
            await other.get(f"{TASKS}/{task_id}/events"),
            await other.post(f"{TASKS}/{task_id}:cancel"),
        ):
            assert (answer.status_code, answer.json()["code"]) == (404, "task_not_found")
        unknown = await other.get(f"{TASKS}/{task_id[:-4]}0000")
        known = await other.get(f"{TASKS}/{task_id}")
        assert (
            unknown.json()["detail"].replace(task_id[:-4] + "0000", task_id)
            == (known.json()["detail"])
        )


@pytest.mark.long  # tests/functions/test_access.py has it without the ten seconds
async def test_a_removed_client_is_locked_out_soon(
    system: Nereid, nobody: httpx.AsyncClient
) -> None:
    await asyncio.to_thread(lambda: system.add_clients(gone=""))
    token = bearer((await token_of(nobody, "gone"))["access_token"])
    key = {"X-API-Key": KEY.format("gone")}
    for headers in (token, key):
        assert (await nobody.get(TASKS, headers=headers)).status_code == 200
    removed = await asyncio.to_thread(system.command, "clients", "remove", "gone")
    assert removed.returncode == 0, removed.stderr
    assert REMEMBER_S <= 10
    async with asyncio.timeout(FORGETS_WITHIN_S):
        for headers in (token, key):
            while (await nobody.get(TASKS, headers=headers)).status_code == 200:
                await asyncio.sleep(0.1)
    listed = await asyncio.to_thread(system.command, "clients", "list")
    assert "gone" not in listed.stdout.split()
    assert "me" in listed.stdout.split()


async def test_everything_listens_on_loopback_alone(system: Nereid) -> None:
    listening: set[tuple[str, str]] = set()
    for process in system.processes():
        with contextlib.suppress(psutil.NoSuchProcess):  # PostgreSQL's come and go
            listening |= {
                (process.name(), connection.laddr.ip)
                for connection in process.net_connections(kind="inet")
                if connection.status == psutil.CONN_LISTEN
            }
    assert {address.removeprefix("::ffff:") for _, address in listening} == {"127.0.0.1"}
    assert len({name for name, _ in listening}) >= 4  # gateway, NATS, S3, Triton, PostgreSQL


async def test_secrets_are_in_no_log_no_argument_and_no_file_that_others_can_read(
    system: Nereid, api: Api, nobody: httpx.AsyncClient, photo: bytes
) -> None:
    token = await token_of(nobody, "me")
    headers = bearer(token["access_token"])
    assert (await nobody.get(TASKS, headers=headers)).status_code == 200
    await nobody.get(TASKS, params={"access_token": token["access_token"]})
    url = (await api.run(photo))["result"]["url"]
    await api.download(url)
    kept = json.loads((system.data / "credentials.json").read_text())
    secrets = {
        *kept.values(),
        kept["s3_access_key"][:20],
        token["access_token"],
        url.partition("X-Amz-Signature=")[2],
        *(template.format("me") for template in (SECRET, KEY)),
    }
    assert len(secrets) >= 8
    assert all(len(secret) >= 9 for secret in secrets)
    logs = [*(system.data / "logs").iterdir(), system.data.parent / "data.log"]
    assert len(logs) >= 7
    for log in logs:
        text = log.read_text(errors="replace")
        assert [secret for secret in secrets if secret in text] == [], log
    for process in system.processes():
        with contextlib.suppress(psutil.NoSuchProcess):
            arguments = " ".join(process.cmdline())
            assert [secret for secret in secrets if secret in arguments] == []
    assert stat.S_IMODE(system.data.stat().st_mode) == 0o700
    for path in system.data.iterdir():
        if path.is_file():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
