"""Models change while frames come in: checked, staged, promoted, rolled back, switched."""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.settings import CHECKOUT
from tests.live.cameras import CUP, Camera, camera_of, jpeg, numbered
from tests.live.conftest import Nereid, client_of

REPOSITORY = CHECKOUT / "model_repository"
DETECTOR = "nanodet-g-416"
FRAME = jpeg(CUP, width=320)
SEEN_S = 60
"""A guard against hanging; a change is seen within a moment."""


def with_more_detectors(folder: Path) -> Path:
    """The checkout's models; of the detector a second version, which is the same network in other
    bytes, and a third, whose file ends too early; and it again as `other`, where a cup is a mug.
    """
    shutil.copytree(REPOSITORY, folder, symlinks=True, copy_function=shutil.copy)
    onnx = (folder / DETECTOR / "1" / "model.onnx").read_bytes()
    for version, content in {"2": onnx + b"\xfa\x3e\x01\x00", "3": onnx[:100_000]}.items():
        shutil.copytree(folder / DETECTOR / "1", folder / DETECTOR / version)
        (folder / DETECTOR / version / "model.onnx").write_bytes(content)
    other = folder / "other"
    shutil.copytree(folder / DETECTOR, other)
    for path in (other / "config.pbtxt", other / "labels.txt"):
        text = path.read_text().replace(DETECTOR, "other")
        path.write_text(text.replace(",cup,", ",mug,").replace("\ncup\n", "\nmug\n"))
    for version in ("2", "3"):
        shutil.rmtree(other / version)
    return folder


class Traffic:
    """Frames, each of which makes one alert, as fast as those come back."""

    def __init__(self, camera: Camera) -> None:
        self.camera = camera
        self.accepted = 0
        self.newest: asyncio.Queue[str] = asyncio.Queue()
        """The model's version, of each alert as it comes."""

    async def send(self) -> None:
        async with aclosing(self.camera.follow()) as events:
            while True:
                await self.camera.send(numbered(FRAME, self.accepted))
                self.accepted += 1
                event = await anext(events)
                while event.name != "alert":  # the word that an alert's picture is kept
                    event = await anext(events)
                self.newest.put_nowait(event.data["model_version"])

    @asynccontextmanager
    async def flowing(self) -> AsyncIterator[None]:
        """Send within the block; no frame may be refused."""
        sending = asyncio.create_task(self.send())
        try:
            yield
            assert not sending.done(), sending.exception()
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    async def seen_by(self, version: str) -> None:
        """Wait for an alert from now on by this version."""
        while not self.newest.empty():
            self.newest.get_nowait()
        async with asyncio.timeout(SEEN_S):
            while await self.newest.get() != version:
                pass


async def models(nereid: Nereid, *arguments: str) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(nereid.command, "models", *arguments)


async def active(engineer: httpx.AsyncClient) -> dict[str, Any]:
    answer = await engineer.get("/api/models/available")
    assert answer.status_code == 200, answer.text
    (found,) = [c for c in answer.json()["capabilities"] if c["capability"] == "detect"]
    return dict(found)


async def until_loaded(engineer: httpx.AsyncClient, version: str) -> None:
    async with asyncio.timeout(SEEN_S):
        while True:
            answer = await engineer.get("/api/models/available")
            if answer.status_code == 200:  # else Triton is starting
                versions = {
                    (model["model"], v["version"])
                    for model in answer.json()["models"]
                    for v in model["versions"]
                    if v["state"] == "ready"
                }
                if (DETECTOR, version) in versions:
                    return
            await asyncio.sleep(0.1)


@pytest.mark.timeout(400)
async def test_models_change_while_frames_come_in_and_no_frame_is_lost(
    own_system: Callable[..., Nereid], tmp_path: Path
) -> None:
    repository = await asyncio.to_thread(with_more_detectors, tmp_path / "models")
    nereid = await asyncio.to_thread(own_system, model_repository=repository)
    nereid.add_clients(engineer="models:read,models:write")
    rules: dict[str, Any] = {"labels": ["cup"], "min_score": 0.33, "cooldown_seconds": 0}
    async with (
        camera_of(nereid, "kitchen", **rules) as camera,
        client_of(nereid, "engineer") as engineer,
    ):
        traffic = Traffic(camera)
        async with traffic.flowing():
            await traffic.seen_by("1")

            broken = await models(nereid, "check", DETECTOR, "3")
            assert broken.returncode == 1
            assert "can't be parsed" in broken.stderr
            staged = await models(
                nereid, "stage", "detect", DETECTOR, "2", "--shadow", "1", "--canary", "0.5",
                "--requests", "15", "--hold-s", "0", "--watch",
            )  # fmt: skip
            assert staged.returncode == 0, staged.stderr
            assert f"detect: {DETECTOR} version 2 is tried as a shadow" in staged.stdout
            assert f"detect: {DETECTOR} version 2 promoted: " in staged.stdout
            await traffic.seen_by("2")

            nereid.part("triton").send_signal(signal.SIGKILL)
            await until_loaded(engineer, "2")
            await traffic.seen_by("2")

            slow = await models(
                nereid, "stage", "detect", DETECTOR, "1", "--shadow", "1", "--canary", "0",
                "--requests", "40", "--hold-s", "0", "--max-latency-ratio", "0.01", "--watch",
            )  # fmt: skip
            assert slow.returncode == 1
            assert "rolled back: in its shadow stage its 95th percentile was" in slow.stdout
            found = await active(engineer)
            assert found["active"] == {"model": DETECTOR, "version": "2"}
            assert "95th percentile" in found["outcome"]["why"]

            answer = await engineer.post("/api/models/rollback", params={"capability": "detect"})
            assert answer.json()["active"] == {"model": DETECTOR, "version": "1"}
            await traffic.seen_by("1")
        found_alerts = await camera.recorded(traffic.accepted, within_s=120)
        assert {alert["model_version"] for alert in found_alerts} == {"1", "2"}
        assert {alert["model"] for alert in found_alerts} == {DETECTOR}

        await switched_by_hand(nereid, camera)
        listed = await models(nereid, "list")
        assert any(
            line.split()[:4] == ["other", "1", "ready", "passed"]
            for line in listed.stdout.splitlines()
        ), listed.stdout
    await asyncio.to_thread(nereid.stop)


async def switched_by_hand(nereid: Nereid, camera: Camera) -> None:
    """A switch to another model, with other labels, is seen by gateway and worker."""
    refused = await models(nereid, "switch", "detect", "realesr-animevideov3-x2")
    assert refused.returncode == 1
    assert "it is a model for upscale, not detect" in refused.stderr
    absent = await models(nereid, "switch", "detect", "nobody")
    assert "there is no model 'nobody'" in absent.stderr
    switched = await models(nereid, "switch", "detect", "other")
    assert switched.stdout == "detect is served by other version 1\n", switched.stderr
    path = f"/api/v1/cameras/{camera.camera_id}"
    async with asyncio.timeout(SEEN_S):  # the gateway: which labels may be asked for
        while (await camera.http.put(path, json={"labels": ["mug"]})).status_code != 200:
            await asyncio.sleep(0.05)
    await camera.set(labels=["mug"], min_score=0.3, cooldown_seconds=0)
    await camera.send(FRAME)
    async with asyncio.timeout(SEEN_S):
        while not (found := await camera.alerts(label="mug")):
            await asyncio.sleep(0.05)
    assert {alert["model"] for alert in found} == {"other"}
