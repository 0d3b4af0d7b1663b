"""Whose files a caller may work on: its own, what the operator shares, and nobody else's."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from functions._kit.keys import OWN_PREFIXES
from functions._kit.messages import new_id

if TYPE_CHECKING:
    from tests.functions.conftest import World

AssertProblem = Callable[..., dict[str, Any]]
PROCESS, UPLOAD = "/api/v1/media:process", "/api/v1/media"


def store(world: World, key: str, photo: bytes) -> str:
    world.objects.contents[key] = photo
    world.objects._types[key] = "image/jpeg"
    return key


async def ask(caller: httpx.AsyncClient, key: str) -> httpx.Response:
    return await caller.post(PROCESS, json={"file_path": key, "workflow": "nas-photo-processing"})


async def test_an_upload_is_its_clients_alone(
    world: World,
    alice: httpx.AsyncClient,
    bob: httpx.AsyncClient,
    operator: httpx.AsyncClient,
    photo: bytes,
    assert_problem: AssertProblem,
) -> None:
    path = (await alice.post(UPLOAD, content=photo)).json()["file_path"]
    there = await ask(bob, path)
    absent = await ask(bob, path[:-5] + "0.jpg")
    assert_problem(there, 404, "file_not_found", "file_path")
    assert there.json()["detail"].replace(path, "") == absent.json()["detail"].replace(
        path[:-5] + "0.jpg", ""
    ), "it cannot be told from one that is not there"
    assert not world.jobs()
    assert (await ask(alice, path)).status_code == 202
    assert (await ask(alice, "/" + path)).status_code == 202
    assert (await ask(operator, path)).status_code == 202


async def test_a_client_whose_name_begins_alike_is_another(
    world: World, alice: httpx.AsyncClient, photo: bytes, assert_problem: AssertProblem
) -> None:
    for key in ("uploads/alice2/x.jpg", "uploads/alic/x.jpg", "uploads/x.jpg", "uploads/alice"):
        assert_problem(
            await ask(alice, store(world, key, photo)), 404, "file_not_found", "file_path"
        )


async def test_a_result_is_its_tasks_clients(
    world: World,
    alice: httpx.AsyncClient,
    bob: httpx.AsyncClient,
    photo: bytes,
    assert_problem: AssertProblem,
) -> None:
    task = await world.add_task("alice")
    key = store(world, f"results/{task.task_id}/cat.jpg", photo)
    assert_problem(await ask(bob, key), 404, "file_not_found", "file_path")
    assert (await ask(alice, key)).status_code == 202
    for odd in (f"results/{new_id()}/cat.jpg", "results/cat.jpg", "results/x/y/z.jpg"):
        assert_problem(
            await ask(alice, store(world, odd, photo)), 404, "file_not_found", "file_path"
        )


@pytest.mark.parametrize("prefix", ["alerts/", "frames/"])
async def test_pictures_of_cameras_are_for_those_who_may_see_alerts(
    world: World,
    alice: httpx.AsyncClient,
    photo: bytes,
    prefix: str,
    assert_problem: AssertProblem,
) -> None:
    key = store(world, f"{prefix}yard/x.jpg", photo)
    assert_problem(await ask(alice, key), 404, "file_not_found", "file_path")
    watcher = await world.caller("watcher", "media:write", "alerts:read")
    assert (await ask(watcher, key)).status_code == 202


async def test_conversions_of_sound_are_nobodys(
    world: World, alice: httpx.AsyncClient, photo: bytes, assert_problem: AssertProblem
) -> None:
    key = store(world, "audio/abc.wav", photo)
    assert_problem(await ask(alice, key), 404, "file_not_found", "file_path")


async def test_models_in_the_bucket_are_no_files_for_anybody(
    make_world: Callable[..., World], photo: bytes, assert_problem: AssertProblem
) -> None:
    world = make_world(reserved_prefixes=("models/",))
    caller = await world.caller("operator", "media:write", "system:read")
    key = store(world, "models/nanodet/1/model.onnx", photo)
    assert_problem(await ask(caller, key), 404, "file_not_found", "file_path")
    for path in ("models/evil/1/model.onnx", *(f"{prefix}x.jpg" for prefix in OWN_PREFIXES)):
        answer = await caller.post(UPLOAD, content=photo, params={"path": path})
        assert_problem(answer, 422, "reserved_path", "path")


async def test_what_the_operator_put_into_the_bucket_is_shared(
    world: World, alice: httpx.AsyncClient, bob: httpx.AsyncClient, photo: bytes
) -> None:
    key = store(world, "holidays/2026/cat.jpg", photo)
    for caller in (alice, bob):
        assert (await ask(caller, key)).status_code == 202
