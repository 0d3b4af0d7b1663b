"""The HTTP functions of models, by the contract: available, switch, stage, rollback, the clock."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import httpx
import msgspec
import pytest
import pytest_asyncio

from functions._kit.consume import Tick
from functions._kit.messages import now
from functions._kit.rollout.evidence import ROLLOUTS, Evidence, evidence_key
from functions._kit.rollout.state import MODELS, Checked, Target, checked_key, serving_of
from functions.models import keep, promote

if TYPE_CHECKING:
    from tests.functions.conftest import World

DETECTOR = "nanodet-g-416"
AssertProblem = Callable[..., dict[str, Any]]


@pytest_asyncio.fixture
async def engineer(world: World) -> httpx.AsyncClient:
    """A caller who may change models; version 2 of the detector is loaded and sound."""
    world.inference.on_disk[DETECTOR] = ("1", "2")
    await world.inference.load(DETECTOR)
    await checked(world, "2")
    return await world.caller("engineer", "models:read", "models:write")


async def checked(world: World, version: str, *problems: str) -> None:
    target = Target(model=DETECTOR, version=version)
    value = msgspec.json.encode(Checked(sha256="abc", at=now(), problems=problems))
    await world.values.put(MODELS, checked_key(target), value)


def asked(**changes: str) -> dict[str, str]:
    return {"capability": "detect", "model": DETECTOR, "version": "2", **changes}


async def shown(client: httpx.AsyncClient, capability: str = "detect") -> dict[str, Any]:
    answer = await client.get("/api/models/available")
    assert answer.status_code == 200, answer.text
    (found,) = [c for c in answer.json()["capabilities"] if c["capability"] == capability]
    return dict(found)


@pytest.mark.parametrize("prefix", ["/api/models", "/api/v1/models"])
async def test_what_is_available_is_shown_and_a_switch_shows(
    world: World, engineer: httpx.AsyncClient, prefix: str
) -> None:
    before = (await engineer.get(f"{prefix}/available")).json()
    names = {one["capability"]: one["active"]["model"] for one in before["capabilities"]}
    assert names["detect"] == DETECTOR
    assert names["upscale.x2"] == "realesr-animevideov3-x2"
    (model,) = [one for one in before["models"] if one["model"] == DETECTOR]
    one, two = model["versions"]
    assert (one["version"], one["state"], one["serves"]) == ("1", "ready", ["detect"])
    assert (one["checked"], two["checked"], two["sha256"]) == ("never", "passed", "abc")
    assert one["statistics"]["requests"] == 0
    await checked(world, "3", "it cannot be loaded")
    again = (await engineer.get(f"{prefix}/available")).json()
    (three,) = [
        version
        for found in again["models"]
        if found["model"] == DETECTOR
        for version in found["versions"]
        if version["version"] == "3"
    ]
    assert (three["state"], three["checked"]) == ("unloaded", "failed")
    assert three["problems"] == ["it cannot be loaded"]

    answer = await engineer.post(f"{prefix}/switch", params=asked())
    assert answer.status_code == 200, answer.text
    assert answer.json()["active"] == {"model": DETECTOR, "version": "2"}
    assert answer.json()["previous"] == {"model": DETECTOR, "version": "1"}
    after = await shown(engineer)
    assert after["outcome"]["what"] == "switched"
    assert after["outcome"]["why"] == "by engineer"

    answer = await engineer.post(f"{prefix}/rollback", params={"capability": "detect"})
    assert answer.json()["active"] == {"model": DETECTOR, "version": "1"}


async def test_a_switch_is_refused_unless_loaded_and_checked(
    world: World, engineer: httpx.AsyncClient, assert_problem: AssertProblem
) -> None:
    switch = "/api/models/switch"
    answer = await engineer.post(switch, params=asked(version="3"))
    assert_problem(answer, 409, "model_not_loaded", "version")
    world.inference.on_disk[DETECTOR] = ("1", "2", "3")
    await world.inference.load(DETECTOR)
    answer = await engineer.post(switch, params=asked(version="3"))
    assert_problem(answer, 409, "model_not_checked", "version")
    await checked(world, "3", "golden answers: `detections` differ")
    answer = await engineer.post(switch, params=asked(version="3"))
    body = assert_problem(answer, 409, "model_not_checked", "version")
    assert "golden answers" in body["detail"]
    assert (await shown(engineer))["active"]["version"] == "1"


@pytest.mark.parametrize(
    ("params", "status", "code", "field"),
    [
        (asked(capability="paint"), 422, "unknown_capability", "capability"),
        (asked(model="nobody"), 404, "model_not_found", "model"),
        (asked(model="realesrgan-x4plus", version="1"), 409, "model_not_loaded", "version"),
        (asked(version="0"), 422, "invalid_request", "version"),
        (asked(version="x"), 422, "invalid_request", "version"),
        ({"capability": "detect", "version": "2"}, 422, "invalid_request", "model"),
    ],
)
async def test_wrong_switches_are_told_what_is_wrong(
    engineer: httpx.AsyncClient,
    assert_problem: AssertProblem,
    params: dict[str, str],
    status: int,
    code: str,
    field: str,
) -> None:
    answer = await engineer.post("/api/models/switch", params=params)
    assert_problem(answer, status, code, field)


@pytest.mark.parametrize("path", ["switch", "stage", "rollback"])
async def test_changes_need_their_scope(
    world: World, assert_problem: AssertProblem, path: str
) -> None:
    reader = await world.caller("reader", "models:read")
    assert_problem(
        await reader.post(f"/api/models/{path}", params=asked()), 403, "scope_missing", "scope"
    )
    assert (await reader.get("/api/models/available")).status_code == 200
    stranger = await world.caller("stranger", "media:read")
    answer = await stranger.get("/api/models/available")
    assert_problem(answer, 403, "scope_missing", "scope")


async def ticked(world: World, *, later_s: float = 3600) -> None:
    tick = Tick(at=now() + timedelta(seconds=later_s))
    await promote.promote.handler(
        tick, world.values, world.inference, world.inference, world.stream
    )


async def test_a_staged_version_is_shown_with_its_evidence_and_judged_by_the_clock(
    world: World, engineer: httpx.AsyncClient, assert_problem: AssertProblem
) -> None:
    plan = {"shadow": 0.5, "canary": 0, "requests": 20, "hold_s": 1}
    answer = await engineer.post("/api/models/stage", json={**asked(), **plan})
    assert answer.status_code == 200, answer.text
    assert answer.json()["candidate"]["stage"] == "shadow"
    again = await engineer.post("/api/models/stage", json=asked())
    assert_problem(again, 409, "rollout_running", "capability")
    candidate = serving_of(world.values, "detect").candidate
    assert candidate is not None
    value = msgspec.json.encode(Evidence(requests=20, compared=20, difference=1))
    await world.values.put(ROLLOUTS, evidence_key(candidate, "p"), value)
    trial = (await shown(engineer))["candidate"]
    assert (trial["evidence"]["requests"], trial["evidence"]["mean_difference"]) == (20, 0.05)
    await ticked(world, later_s=0)
    assert (await shown(engineer))["active"]["version"] == "1"
    await ticked(world)
    after = await shown(engineer)
    assert (after["active"]["version"], after["candidate"]) == ("2", None)
    assert after["outcome"]["what"] == "promoted"


@pytest.mark.parametrize(
    ("wrong", "field"),
    [({"shadow": 2}, "shadow"), ({"requests": 0}, "requests"), ({"share": 1}, "body")],
)
async def test_a_wrong_plan_is_told_what_is_wrong(
    engineer: httpx.AsyncClient, assert_problem: AssertProblem, wrong: dict[str, Any], field: str
) -> None:
    answer = await engineer.post("/api/models/stage", json={**asked(), **wrong})
    assert_problem(answer, 422, "invalid_request", field)


async def test_what_should_serve_is_loaded_again_and_only_that(world: World) -> None:
    await world.values.switch("detect", DETECTOR, "2")
    world.inference.on_disk[DETECTOR] = ("1", "2")
    await keep.keep.handler(Tick(at=now()), world.values, world.inference)
    assert world.inference.loaded == {(DETECTOR, "1"), (DETECTOR, "2")}
    world.inference.loaded.clear()  # Triton has started again
    world.inference.broken[DETECTOR, "2"] = "no memory"
    await keep.keep.handler(Tick(at=now()), world.values, world.inference)
    assert not world.inference.loaded
    world.inference.broken.clear()
    await keep.keep.handler(Tick(at=now()), world.values, world.inference)
    assert (DETECTOR, "2") in world.inference.loaded


async def test_nothing_is_loaded_where_nobody_has_changed_anything(world: World) -> None:
    await keep.keep.handler(Tick(at=now()), world.values, world.inference)
    assert not world.inference.loaded
