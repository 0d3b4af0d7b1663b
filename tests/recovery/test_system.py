"""The whole system, killed, filled, and restored elsewhere: every accepted task ends, once."""

from __future__ import annotations

import asyncio
import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.live.conftest import Api, Nereid, client_of, final_events
from tests.recovery.test_full_disk import SmallDisk, fill

MakeSystem = Callable[..., Nereid]
DEADLINE_S = 300
FIRST_MODELS = 4


async def all_well(api: Api) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while (await api.http.get("/health/ready")).status_code != 200:
            await asyncio.sleep(0.05)


async def ended_once(nereid: Nereid, api: Api, task_ids: list[str]) -> list[dict[str, Any]]:
    """The rows of tasks that are all completed, each by one final event."""
    rows = [await api.finished(task_id) for task_id in task_ids]
    assert {row["status"] for row in rows} == {"completed"}
    for row in rows:
        assert len(await final_events(nereid, row["task_id"])) == 1
        content = await api.download(row["result"]["url"])
        assert len(content) == row["result"]["size"]
    return rows


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_a_system_that_was_killed_goes_on_with_every_task(
    own_system: MakeSystem, photo: bytes
) -> None:
    nereid = await asyncio.to_thread(own_system)
    async with client_of(nereid, "me") as http:
        api = Api(http)
        path = await api.upload(photo)
        done = await api.run(photo)
        waiting = [await api.process(path, scale_factor=scale) for scale in (4, 2, 3, 4)]
        await api.first(waiting[0], lambda event: event.name == "processing")
    said = len(nereid.said())
    await asyncio.to_thread(nereid.crash)
    await asyncio.to_thread(lambda: nereid.start(models=False))
    async with client_of(nereid, "me") as http:
        api = Api(http)
        rows = await ended_once(nereid, api, [*waiting, done["task_id"]])
        await all_well(api)
        told = nereid.said()[said:]
        assert [told.count(f"{n} of {FIRST_MODELS}: ") for n in range(1, 5)] == [1, 1, 1, 1]
        assert "nats      the stream" not in told

        # what somebody does to the bucket meanwhile
        cut, gone = rows[0], rows[1]
        bucket = nereid.data / "s3" / "nereid"
        with (bucket / cut["result"]["file_path"]).open("rb+") as file:
            file.truncate(100)
        (bucket / gone["result"]["thumbnails"][0]["file_path"]).unlink()
        result = (await api.status(cut["task_id"]))["result"]
        assert result["url"] is None
        assert result["error"]["code"] == "object_damaged"
        assert f"has 100 bytes of the {result['size']}" in result["error"]["message"]
        result = (await api.status(gone["task_id"]))["result"]
        assert result["url"]
        assert "is gone" in result["thumbnails"][0]["error"]["message"]
    await asyncio.to_thread(nereid.stop)


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_a_full_disk_takes_nothing_loses_nothing_and_is_forgotten(
    own_system: MakeSystem, photo: bytes, small_disk: SmallDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    disks: list[Path] = []
    start = Nereid.start

    def on_a_small_disk(self: Nereid, *, models: bool = True) -> None:
        disks.append(small_disk(self.data / "nats", 64))
        start(self, models=models)

    monkeypatch.setattr(Nereid, "start", on_a_small_disk)
    nereid = await asyncio.to_thread(own_system, min_free_bytes=8 << 20)
    (store,) = disks
    async with client_of(nereid, "me") as http:
        api = Api(http)
        path = await api.upload(photo)
        accepted = [await api.process(path, scale_factor=4) for _ in range(4)]
        filler = await asyncio.to_thread(fill, store, 4 << 20)
        refused = await api.send(path)
        assert (refused.status_code, refused.json()["code"]) == (503, "storage_full")
        assert int(refused.headers["retry-after"]) > 0
        await api.status(accepted[0])
        filler.unlink()
        accepted.append(await api.process(path))
        # now beyond what is kept free, with tasks in work: their facts cannot be written
        filler = await asyncio.to_thread(fill, store)
        async with asyncio.timeout(DEADLINE_S):
            while "no space left on device" not in (nereid.data / "logs/nats.log").read_text():
                await asyncio.sleep(0.05)
        filler.unlink()
        async with asyncio.timeout(DEADLINE_S):
            while (answer := await api.send(path)).status_code != 202:
                assert answer.status_code == 503, answer.text
                await asyncio.sleep(0.2)
        accepted.append(answer.json()["task_id"])
        await ended_once(nereid, api, accepted)
    await asyncio.to_thread(nereid.stop)


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_a_backup_under_traffic_restored_elsewhere_has_every_accepted_task(
    own_system: MakeSystem, photo: bytes, tmp_path: Path
) -> None:
    first = await asyncio.to_thread(own_system)
    target = tmp_path / "backup.tar"
    accepted: list[str] = []
    enough = asyncio.Event()

    async def keep_sending(api: Api, path: str) -> None:
        for scale in itertools.cycle((2, 3, 4)):
            if enough.is_set():
                return
            accepted.append(await api.process(path, scale_factor=scale))
            await asyncio.sleep(0.1)  # the pace of the load

    async with client_of(first, "me") as http:
        api = Api(http)
        sending = asyncio.create_task(keep_sending(api, await api.upload(photo)))
        while len(accepted) < 20:
            assert not sending.done()
            await asyncio.sleep(0.05)
        await api.finished(accepted[0])
        before = list(accepted)
        made = await asyncio.to_thread(first.command, "backup", str(target))
        assert made.returncode == 0, made.stderr
        enough.set()
        await sending
        assert len(accepted) > len(before)
    await asyncio.to_thread(first.crash)

    second = Nereid(tmp_path / "elsewhere")
    restored = await asyncio.to_thread(second.command, "restore", str(target))
    assert restored.returncode == 0, restored.stderr
    await asyncio.to_thread(shutil.copytree, first.data / "s3", second.data / "s3")
    try:
        await asyncio.to_thread(second.start)
        async with client_of(second, "me") as http:  # its key is known there, too
            api = Api(http)
            await ended_once(second, api, before)
            async with asyncio.timeout(DEADLINE_S):  # of those accepted later none is stuck
                while True:
                    page = await http.get("/api/v1/media/processingTasks", params={"limit": 200})
                    rows = page.json()["items"]
                    if all(row["status"] == "completed" for row in rows):
                        break
                    await asyncio.sleep(0.2)
            assert len({row["task_id"] for row in rows}) == len(rows) >= len(before)
            assert {row["task_id"] for row in rows} <= set(accepted)
        await asyncio.to_thread(second.stop)
    finally:
        second.kill_all()
