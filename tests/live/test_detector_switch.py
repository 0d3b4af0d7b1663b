"""Another detector takes over while frames come in, once it has passed its check."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

from gateway.settings import CHECKOUT
from tests.live.cameras import CUP, camera_of, jpeg
from tests.live.conftest import Nereid

REPOSITORY = CHECKOUT / "model_repository"
FRAME = jpeg(CUP, width=320)
SEEN_S = 60


def with_another_detector(folder: Path) -> Path:
    """The checkout's models, and the detector again as `other`, where a cup is a `mug`."""
    shutil.copytree(REPOSITORY, folder, symlinks=True, copy_function=shutil.copy)
    shutil.copytree(folder / "nanodet-g-416", folder / "other")
    for path in (folder / "other" / "config.pbtxt", folder / "other" / "labels.txt"):
        text = path.read_text().replace("nanodet-g-416", "other")
        path.write_text(text.replace(",cup,", ",mug,").replace("\ncup\n", "\nmug\n"))
    return folder


async def test_a_switch_is_seen_by_every_process_and_a_model_that_fails_its_check_is_refused(
    own_system: Callable[..., Nereid], tmp_path: Path
) -> None:
    models = await asyncio.to_thread(with_another_detector, tmp_path / "models")
    nereid = await asyncio.to_thread(own_system, model_repository=models)
    async with camera_of(nereid, "kitchen", labels=["cup"], min_score=0.3) as camera:
        await camera.send(FRAME)
        (first,) = await camera.recorded(1)
        assert (first["label"], first["model"]) == ("cup", "nanodet-g-416")

        refused = nereid.command("models", "switch", "detect", "realesr-animevideov3-x2")
        assert refused.returncode == 1
        assert "`capability` of its config.pbtxt is missing" in refused.stderr
        absent = nereid.command("models", "switch", "detect", "nobody")
        assert "there is no model 'nobody'" in absent.stderr

        switched = nereid.command("models", "switch", "detect", "other")
        assert switched.stdout == "detect is served by other\n", switched.stderr
        async with asyncio.timeout(SEEN_S):  # the gateway: which labels may be asked for
            while (
                await camera.http.put("/api/v1/cameras/kitchen", json={"labels": ["mug"]})
            ).status_code != 200:
                await asyncio.sleep(0.05)
        await camera.set(labels=["mug"], min_score=0.3, cooldown_seconds=0)
        await camera.send(FRAME)
        async with asyncio.timeout(SEEN_S):
            while not (found := await camera.alerts(label="mug")):
                await asyncio.sleep(0.05)
        assert {alert["model"] for alert in found} == {"other"}
        assert len(await camera.alerts(label="cup")) == 1
    await asyncio.to_thread(nereid.stop)
