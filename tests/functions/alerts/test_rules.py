from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import pytest_asyncio

from functions.alerts._cameras import rules_of
from functions.alerts.contracts import (
    CAMERAS,
    PEOPLE_VEHICLES_ANIMALS,
    Alert,
    Rules,
)

if TYPE_CHECKING:
    from tests.functions.conftest import World

AssertProblem = Callable[..., dict[str, Any]]
PATH = "/api/v1/cameras"
DEFAULTS: dict[str, Any] = {
    "labels": list(PEOPLE_VEHICLES_ANIMALS),
    "min_score": 0.5,
    "zones": [],
    "cooldown_seconds": 10.0,
    "retention_days": 30.0,
    "backlog": "all",
    "max_waiting": 10,
}
TRIANGLE = [[0, 0], [1, 0], [1, 1]]
RULES: dict[str, Any] = {
    "labels": ["person", "cup"],
    "min_score": 0.25,
    "zones": [{"name": "drive", "polygon": TRIANGLE}],
    "cooldown_seconds": 0,
    "retention_days": 0.5,
    "backlog": "latest",
    "max_waiting": 3,
}


@pytest_asyncio.fixture
async def caller(world: World) -> httpx.AsyncClient:
    """A caller who may set rules and read them, of a detector that knows every label."""
    detector = world.inference.detector("nanodet-g-416", (*PEOPLE_VEHICLES_ANIMALS, "cup"))
    world.inference.detectors["nanodet-g-416"] = detector
    return await world.caller("alice", "frames:write", "alerts:read")


async def test_a_camera_that_nobody_has_configured_has_the_default_rules(
    caller: httpx.AsyncClient,
) -> None:
    body = (await caller.get(f"{PATH}/gate")).json()
    assert body == {"camera_id": "gate", "configured": False, **DEFAULTS}


async def test_rules_are_what_was_put_and_hold_for_the_next_frame(
    world: World, caller: httpx.AsyncClient
) -> None:
    answer = await caller.put(f"{PATH}/gate", json=RULES)
    expected = {"camera_id": "gate", "configured": True, **RULES}
    assert (answer.status_code, answer.json()) == (200, expected)
    assert (await caller.get(f"{PATH}/gate")).json() == expected
    rules = rules_of(world.values, "gate")
    assert rules.zones[0].polygon == [(0, 0), (1, 0), (1, 1)]
    assert (rules.labels, rules.backlog, rules.max_waiting) == (["person", "cup"], "latest", 3)
    assert rules_of(world.values, "door") == Rules()


async def test_what_is_left_out_has_its_default_again(caller: httpx.AsyncClient) -> None:
    await caller.put(f"{PATH}/gate", json=RULES)
    body = (await caller.put(f"{PATH}/gate", json={"min_score": 0.7})).json()
    assert body == {"camera_id": "gate", "configured": True, **DEFAULTS, "min_score": 0.7}


async def test_forgotten_rules_are_the_default_ones(
    world: World, caller: httpx.AsyncClient
) -> None:
    await caller.put(f"{PATH}/gate", json=RULES)
    for _ in range(2):
        answer = await caller.delete(f"{PATH}/gate")
        assert (answer.status_code, answer.content) == (204, b"")
    assert (await caller.get(f"{PATH}/gate")).json()["configured"] is False
    assert rules_of(world.values, "gate") == Rules()


async def test_all_cameras_with_rules_or_alerts_are_listed(
    world: World, caller: httpx.AsyncClient, new_alert: Callable[..., Alert]
) -> None:
    await world.alert_store.record([new_alert(camera_id="b"), new_alert(camera_id="c")])
    for camera_id in ("c", "a"):
        await caller.put(f"{PATH}/{camera_id}", json=RULES)
    items = (await caller.get(PATH)).json()["items"]
    assert items == [
        {"camera_id": "a", "configured": True, **RULES},
        {"camera_id": "b", "configured": False, **DEFAULTS},
        {"camera_id": "c", "configured": True, **RULES},
    ]


@pytest.mark.parametrize(
    ("rules", "code", "words"),
    [
        ({"labels": ["persn"]}, "unknown_label", "did you mean 'person'?"),
        ({"labels": ["Zebra fish"]}, "unknown_label", "there are: person, bicycle"),
        ({"labels": [""]}, "unknown_label", "there are"),
        ({"labels": ["x" * 1000]}, "unknown_label", "xxx"),
        ({"labels": "person"}, "invalid_request", "array"),
        ({"min_score": 1.01}, "invalid_request", "<= 1"),
        ({"min_score": -0.01}, "invalid_request", ">= 0"),
        ({"min_score": "high"}, "invalid_request", "float"),
        ({"cooldown_seconds": -1}, "invalid_request", ">= 0"),
        ({"cooldown_seconds": 86_401}, "invalid_request", "<= 86400"),
        ({"retention_days": 0}, "invalid_request", "> 0"),
        ({"retention_days": 36_501}, "invalid_request", "<= 36500"),
        ({"backlog": "some"}, "invalid_request", "some"),
        ({"max_waiting": 0}, "invalid_request", ">= 1"),
        ({"max_waiting": 100_001}, "invalid_request", "<= 100000"),
        ({"max_waiting": 1.5}, "invalid_request", "int"),
        ({"colour": "red"}, "invalid_request", "colour"),
        ({"camera_id": "door"}, "invalid_request", "camera_id"),
    ],
)
async def test_rules_that_cannot_hold_are_refused_with_their_rule(
    world: World, caller: httpx.AsyncClient, rules: Any, code: str, words: str
) -> None:
    answer = await caller.put(f"{PATH}/gate", json=rules)
    assert (answer.status_code, answer.json()["code"]) == (422, code), answer.text
    assert words in answer.json()["detail"]
    assert len(answer.content) < 2000
    assert world.values.buckets[CAMERAS] == {}


@pytest.mark.parametrize(
    ("zones", "code"),
    [
        ([{"name": "a", "polygon": TRIANGLE}, {"name": "a", "polygon": TRIANGLE}], "invalid_zone"),
        ([{"name": "a", "polygon": [[0, 0], [0.5, 0.5], [1, 1]]}], "invalid_zone"),
        ([{"name": "a", "polygon": [[0.5, 0.5]] * 3}], "invalid_zone"),
        ([{"name": "a", "polygon": [[0, 0], [1, 1]]}], "invalid_request"),
        ([{"name": "a", "polygon": [[0, 0], [1.1, 0], [1, 1]]}], "invalid_request"),
        ([{"name": "a", "polygon": [[0, 0], [-0.1, 0], [1, 1]]}], "invalid_request"),
        ([{"name": "a", "polygon": [[0, 0, 0], [1, 0, 0], [1, 1, 0]]}], "invalid_request"),
        ([{"name": "a", "polygon": [[0, 0]] * 65}], "invalid_request"),
        ([{"name": "", "polygon": TRIANGLE}], "invalid_request"),
        ([{"name": "x" * 65, "polygon": TRIANGLE}], "invalid_request"),
        ([{"polygon": TRIANGLE}], "invalid_request"),
        ([{"name": "a", "polygon": TRIANGLE, "colour": "red"}], "invalid_request"),
        ([{"name": str(n), "polygon": TRIANGLE} for n in range(65)], "invalid_request"),
    ],
)
async def test_zones_that_are_none_are_refused(
    world: World, caller: httpx.AsyncClient, zones: Any, code: str
) -> None:
    answer = await caller.put(f"{PATH}/gate", json={"zones": zones})
    body = answer.json()
    assert (answer.status_code, body["code"]) == (422, code), answer.text
    assert "zones" in body["detail"] or "zones" in str(body)
    assert world.values.buckets[CAMERAS] == {}


async def test_many_zones_of_any_name_are_taken(caller: httpx.AsyncClient) -> None:
    zones = [{"name": f"<b>{n}</b> Tür\n", "polygon": TRIANGLE} for n in range(64)]
    zones[0] = {"name": "edge", "polygon": [[n / 63, (n / 63) ** 2] for n in range(64)]}
    answer = await caller.put(f"{PATH}/gate", json={"zones": zones})
    assert answer.status_code == 200, answer.text
    assert [zone["name"] for zone in answer.json()["zones"]] == [zone["name"] for zone in zones]


@pytest.mark.parametrize("camera_id", ["a.b", "a b", "x" * 65, "T%C3%BCr", "%3E", "%2A", "a%0A"])
async def test_no_camera_can_have_such_an_id(
    caller: httpx.AsyncClient, assert_problem: AssertProblem, camera_id: str
) -> None:
    path = f"{PATH}/{camera_id}"
    for answer in (
        await caller.get(path),
        await caller.put(path, json={}),
        await caller.delete(path),
    ):
        assert_problem(answer, 404, "camera_not_found", "camera_id")


async def test_labels_are_those_of_the_model_that_serves_now(
    world: World, caller: httpx.AsyncClient, assert_problem: AssertProblem
) -> None:
    world.inference.detectors["pets"] = world.inference.detector("pets", ("hamster",))
    await world.values.switch("detect", "pets")
    answer = await caller.put(f"{PATH}/gate", json={"labels": ["hamster"]})
    assert answer.status_code == 200, answer.text
    answer = await caller.put(f"{PATH}/gate", json={"labels": ["person"]})
    assert_problem(answer, 422, "unknown_label", "labels")


async def test_rules_without_labels_can_be_put_whatever_model_serves(
    world: World, caller: httpx.AsyncClient
) -> None:
    """A detector of four classes does not know every default label."""
    world.inference.detectors["pets"] = world.inference.detector("pets", ("hamster",))
    await world.values.switch("detect", "pets")
    answer = await caller.put(f"{PATH}/gate", json={"min_score": 0.3})
    assert answer.status_code == 200, answer.text


async def test_rules_cannot_be_checked_while_triton_is_sick(
    world: World, caller: httpx.AsyncClient, assert_problem: AssertProblem
) -> None:
    world.inference.sick = True
    answer = await caller.put(f"{PATH}/gate", json={"labels": ["person"]})
    assert_problem(answer, 503, "triton_unavailable")
    assert int(answer.headers["retry-after"]) > 0
    assert (await caller.get(f"{PATH}/gate")).json()["configured"] is False
    assert (await caller.delete(f"{PATH}/gate")).status_code == 204


async def test_a_sick_queue_is_no_camera_without_rules(
    world: World, caller: httpx.AsyncClient, assert_problem: AssertProblem
) -> None:
    await caller.put(f"{PATH}/gate", json=RULES)
    world.values.sick = True
    for answer in (
        await caller.get(f"{PATH}/gate"),
        await caller.put(f"{PATH}/gate", json=RULES),
        await caller.delete(f"{PATH}/gate"),
    ):
        assert_problem(answer, 503, "queue_unavailable")
