"""A system whose model repository lies in its own S3: filled while it runs, and served from."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from gateway.settings import CHECKOUT
from tests.live.cameras import CUP, camera_of, jpeg
from tests.live.conftest import Nereid

DETECTOR = "nanodet-g-416"


@pytest.mark.timeout(180)
@pytest.mark.long  # tests/models has the same over a fake and a real S3, without a system
async def test_a_model_is_added_to_s3_while_the_system_runs_and_serves_at_once(
    own_system: Callable[..., Nereid],
) -> None:
    nereid = await asyncio.to_thread(own_system, model_repository="s3://nereid/models")
    del nereid.environment["NEREID_MODEL_REPOSITORY"]  # commands find it through the data folder

    async def models(*words: str) -> str:
        done = await asyncio.to_thread(nereid.command, "models", *words)
        return done.stdout + done.stderr

    source = str(CHECKOUT / "model_repository" / DETECTOR)
    assert await models("add", source) == f"{DETECTOR}: added version 1\n"
    async with camera_of(nereid, "kitchen", labels=["cup"], min_score=0.3) as camera:
        await camera.send(jpeg(CUP, width=320))
        (alert,) = await camera.recorded(1)
    assert (alert["label"], alert["model"]) == ("cup", DETECTOR)
    assert "is sound by its golden answers" in await models("check", DETECTOR)
    assert "it serves detect: switch to another one first" in await models("remove", DETECTOR)
    await asyncio.to_thread(nereid.stop)
