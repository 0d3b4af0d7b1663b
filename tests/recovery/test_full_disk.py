"""A full disk: nothing is accepted that cannot be kept, and work goes on once there is room."""

from __future__ import annotations

import asyncio
import logging
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from functions._kit.errors import Unavailable
from functions._kit.ports import Receipt
from gateway.adapters.jetstream import JetStream, StreamLimits, connect, ensure_streams
from gateway.adapters.tables import open_database
from gateway.embedded import EmbeddedServers
from gateway.embedded.stuck import restart_when_stuck
from gateway.room import QUIET_S, Refusals, room_of, too_full, with_room
from gateway.settings import Settings

SmallDisk = Callable[[Path, int], Path]


def fill(folder: Path, left_bytes: int = 0) -> Path:
    """A file that leaves no more than so much free."""
    filler = folder / "filler"
    with filler.open("wb") as file:
        try:
            while True:
                file.write(b"\0" * 65_536)
                file.flush()
        except OSError:
            pass
    if left_bytes:
        with filler.open("rb+") as file:
            file.truncate(filler.stat().st_size - left_bytes)
    return filler


async def published(stream: JetStream, name: str) -> Receipt:
    return await stream.publish_bytes(f"jobs.nobody.{name}", b"x" * 1000, message_id=name)


async def accepted(stream: JetStream, name: str) -> Receipt:
    """Its receipt, however often the client must call again."""
    async with asyncio.timeout(120):
        while True:
            with suppress(Unavailable):
                return await published(stream, name)
            await asyncio.sleep(0.05)


async def test_nats_gives_nothing_up_for_good_when_its_disk_was_full(
    tmp_path: Path, small_disk: SmallDisk
) -> None:
    store = small_disk(tmp_path / "nats", 24)
    async with EmbeddedServers(tmp_path, want={"nats"}) as servers:
        running = servers.nats
        watching = asyncio.gather(
            servers.supervise(lambda _, __: None), restart_when_stuck(running.process, store)
        )
        client = await connect(running.url, name="test")
        await ensure_streams(client, StreamLimits())
        stream = JetStream(client)
        filler = fill(store, 100_000)
        kept: list[int] = []

        async def publish_until_refused() -> None:
            for number in range(1000):
                assert not (await published(stream, str(number))).duplicate
                kept.append(number)

        with pytest.raises(Unavailable):
            await publish_until_refused()
        assert kept
        before = running.process.pid
        filler.unlink()
        async with asyncio.timeout(120):
            while running.process.pid == before or not await stream.healthy():
                await asyncio.sleep(0.05)
        await accepted(stream, "last")
        # what was accepted is there, and its ids are known
        for number in (kept[0], kept[-1]):
            assert (await accepted(stream, str(number))).duplicate
        info = await client.jetstream().stream_info("JOBS")
        assert info.state.messages >= len(kept) + 1
        await client.close()
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def test_a_database_without_room_is_unavailable_until_it_has_some(
    tmp_path: Path, small_disk: SmallDisk
) -> None:
    async with EmbeddedServers(tmp_path / "first", want={"postgres"}):
        pass
    tables = small_disk(tmp_path / "data" / "postgres", 120)
    await asyncio.to_thread(
        subprocess.run, ["cp", "-a", f"{tmp_path}/first/postgres/.", str(tables)], check=True
    )
    for name in ("credentials.json", "ports.json"):
        (tmp_path / "first" / name).rename(tmp_path / "data" / name)
    async with (
        EmbeddedServers(tmp_path / "data", want={"postgres"}) as servers,
        open_database(servers.postgres.url) as database,
    ):
        await database.fetch("CREATE TABLE t (x text)")
        # a log file of 16 MB that is there, and all of it left
        await database.fetch("SELECT pg_switch_wal()")
        await database.fetch("CHECKPOINT")
        filler = fill(tables, 300_000)
        # within what is left in the log of transactions, beyond what is left for the table
        insert = "INSERT INTO t SELECT md5(n::text) FROM generate_series(1, 40000) AS n"
        with pytest.raises(Unavailable, match="No space left on device"):
            await database.fetch(insert)
        filler.unlink()
        await database.fetch("INSERT INTO t VALUES ('last')")
        rows = await database.fetch("SELECT count(*) AS n FROM t WHERE x = 'last'")
        assert rows[0]["n"] == 1


def test_the_fullest_disk_is_named(tmp_path: Path) -> None:
    assert too_full([tmp_path / "absent", tmp_path], 1) is None
    said = too_full([tmp_path / "absent", tmp_path], 1 << 62)
    assert said is not None
    assert f"the disk of {tmp_path} has" in said


@pytest.mark.parametrize(
    ("method", "path", "taken"),
    [
        ("POST", "/api/v1/media", False),
        ("PUT", "/api/v1/cameras/yard", False),
        ("POST", "/v1/audio/transcriptions", False),
        ("POST", "/api/v1/auth/token", True),
        ("POST", "/api/v1/media/processingTasks/some:cancel", True),
        ("GET", "/api/v1/media/processingTasks", True),
        ("DELETE", "/api/v1/deadletters", True),
    ],
)
async def test_without_room_what_takes_work_is_refused_and_all_else_goes_on(
    tmp_path: Path, method: str, path: str, *, taken: bool
) -> None:
    async def app(scope: object, receive: object, send: Callable[..., object]) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})  # type: ignore[misc]
        await send({"type": "http.response.body", "body": b""})  # type: ignore[misc]

    room = room_of(Settings(data=tmp_path, scratch=tmp_path, min_free_bytes=1 << 62))
    transport = httpx.ASGITransport(with_room(app, room))  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://nereid") as http:
        answer = await http.request(method, path)
    if taken:
        assert answer.status_code == 200
        return
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"
    assert int(answer.headers["retry-after"]) > 0
    body = answer.json()
    assert (body["code"], body["status"]) == ("storage_full", 503)
    assert "nothing was taken" in body["detail"]
    assert str(tmp_path) not in answer.text  # whoever asks is not known yet
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert ("error" in body) == path.startswith("/v1/")


def test_refusals_fill_no_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "gateway.room")
    now = 0.0
    refusals = Refusals(lambda: now)
    for _ in range(1000):
        refusals.tell("no room")
    now = QUIET_S
    refusals.tell("no room")
    assert [record.getMessage() for record in caplog.records] == [
        "refused as storage_full: no room",
        "refused as storage_full: no room (999 more since the last line)",
    ]
