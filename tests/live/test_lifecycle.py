"""Stopping and starting again, one owner of a data folder, servers of one's own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import pyvips

from tests.conftest import Servers
from tests.live.conftest import SECRET, Api, Nereid, client_of, encoded, final_events

MakeSystem = Callable[..., Nereid]


async def test_a_restart_keeps_tasks_tokens_uploads_and_clients(
    own_system: MakeSystem, image: pyvips.Image, photo: bytes
) -> None:
    nereid = await asyncio.to_thread(own_system, drain_s=0.5)
    credentials = {
        "client_id": "me",
        "client_secret": SECRET.format("me"),
        "grant_type": "client_credentials",
    }
    async with client_of(nereid, "me") as http:
        api = Api(http)
        answer = await http.post("/api/v1/auth/token", json=credentials)
        token = {"Authorization": f"Bearer {answer.json()['access_token']}"}
        done = await api.run(photo)
        second = await asyncio.to_thread(nereid.command, "up", "--port", "0")
        assert second.returncode == 1
        assert second.stdout == ""
        assert "in use" in second.stderr
        assert len(second.stderr.strip().splitlines()) == 1

        path = await api.upload(encoded(image.crop(0, 0, 64, 48), ".png"))
        private = await api.send(path, callback_url="http://127.0.0.1:9/")
        assert (private.status_code, private.json()["code"]) == (422, "invalid_callback_url")
        waiting = [await api.process(path, model="realesrgan-x4plus") for _ in range(5)]
        await api.first(waiting[0], lambda event: event.data["progress"] > 0)
        states = [(await api.status(task_id))["status"] for task_id in waiting]
        assert "queued" in states
    await asyncio.to_thread(nereid.stop)

    listed = await asyncio.to_thread(nereid.command, "clients", "list")
    assert listed.stdout.startswith("me ")
    await asyncio.to_thread(nereid.start)
    async with client_of(nereid, None) as http:
        http.headers.update(token)
        api = Api(http)
        for task_id in waiting:
            row = await api.finished(task_id)
            assert (row["status"], row["attempts"]) == ("completed", 1)
            assert len(await final_events(nereid, task_id)) == 1
        old = await api.status(done["task_id"])
        assert old["result"]["sha256"] == done["result"]["sha256"]
        assert len(await api.download(old["result"]["url"])) == done["result"]["size"]
        assert await api.process(path)
    await asyncio.to_thread(nereid.stop)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"max_upload_byte": 5}, "did you mean NEREID_MAX_UPLOAD_BYTES?"),
        ({"token_lifetime_s": 1}, "token_lifetime_s"),
        ({"token_secret": "short"}, "token_secret"),
    ],
)
def test_a_setting_that_does_not_fit_stops_the_start_with_one_line(
    tmp_path: Path, settings: dict[str, object], said: str
) -> None:
    refused = Nereid(tmp_path / "data", **settings).command("up")
    assert refused.returncode == 1
    assert said in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "data").exists()


async def test_with_servers_of_ones_own_nereid_starts_none(
    own_system: MakeSystem, servers: Servers, database_url: str, photo: bytes
) -> None:
    nereid = await asyncio.to_thread(
        own_system,
        nats_url=servers.nats.url,
        database_url=database_url,
        triton_url=servers.triton.url,
        s3_endpoint=servers.s3.endpoint,
        s3_access_key=servers.s3.access_key,
        s3_secret_key=servers.s3.secret_key,
        s3_bucket=servers.s3.bucket,
    )
    up, *children = nereid.processes()
    assert len([child for child in children if child.ppid() == up.pid]) == 2
    assert {nereid.part("worker"), nereid.part("gateway")} <= set(children)
    async with client_of(nereid, "me") as http:
        api = Api(http)
        result = (await api.run(photo))["result"]
        assert result["url"].startswith(servers.s3.endpoint)
        assert len(await api.download(result["url"])) == result["size"]
        ready = (await http.get("/health/ready")).json()
        assert set(ready["parts"].values()) == {"ok"}
    await asyncio.to_thread(nereid.stop)
    for server in (servers.nats, servers.s3, servers.postgres, servers.triton):
        assert psutil.pid_exists(server.process.pid)
