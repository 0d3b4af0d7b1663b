from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from functions._kit import damage
from functions._kit.messages import new_id
from functions._kit.ports import ObjectInfo
from functions.tasks.contracts import Status, TaskError

if TYPE_CHECKING:
    from tests.functions.conftest import World

AssertProblem = Callable[..., dict[str, Any]]
PATH = "/api/v1/media/processingTasks"
RESULT: dict[str, Any] = {
    "file_path": "results/t/cat x2.png",
    "width": 20,
    "size": 9,
    "thumbnails": [
        {"file_path": "results/t/thumbnail_320.jpg", "width": 10, "height": 5, "size": 5}
    ],
}


@pytest.fixture
def result(world: World) -> dict[str, Any]:
    """`RESULT`, with its objects in the bucket."""
    world.objects.add(RESULT["file_path"], b"a picture", "image/png")
    world.objects.add("results/t/thumbnail_320.jpg", b"small", "image/jpeg")
    return RESULT


async def test_a_queued_task_looks_so(world: World, alice: httpx.AsyncClient) -> None:
    task = await world.add_task()
    answer = await alice.get(f"{PATH}/{task.task_id}")
    assert answer.status_code == 200
    created_at = answer.json()["created_at"]
    assert created_at.endswith("Z")
    assert answer.json() == {
        "task_id": task.task_id,
        "status": "queued",
        "progress": 0,
        "workflow": "nas-photo-processing",
        "priority": 5,
        "attempts": 0,
        "created_at": created_at,
        "started_at": None,
        "finished_at": None,
        "result": None,
        "error": None,
    }


async def test_a_completed_task_has_urls_that_hold_for_a_day(
    world: World, alice: httpx.AsyncClient, result: dict[str, Any]
) -> None:
    task = await world.add_task()
    await world.tell(task, Status.PROCESSING, progress=0.5, attempts=1)
    await world.tell(task, Status.COMPLETED, result=result, attempts=1)
    body = (await alice.get(f"{PATH}/{task.task_id}")).json()
    assert (body["status"], body["progress"], body["attempts"]) == ("completed", 1, 1)
    assert body["started_at"] <= body["finished_at"]
    url = "http://objects.invalid/bucket/results/t/"
    assert body["result"]["url"] == f"{url}cat%20x2.png?expires=86400"
    (thumbnail,) = body["result"]["thumbnails"]
    assert thumbnail["url"] == f"{url}thumbnail_320.jpg?expires=86400"
    assert {**body["result"], "thumbnails": None, "url": None} == {
        **RESULT, "thumbnails": None, "url": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("damaged", "content", "said"),
    [
        ("results/t/cat x2.png", b"a pi", "has 4 bytes of the 9 that were written"),
        ("results/t/cat x2.png", None, "is gone from the bucket"),
        ("results/t/thumbnail_320.jpg", b"", "has 0 bytes of the 5 that were written"),
    ],
)
async def test_a_damaged_object_has_a_reason_instead_of_a_url(
    world: World,
    alice: httpx.AsyncClient,
    result: dict[str, Any],
    damaged: str,
    content: bytes | None,
    said: str,
) -> None:
    task = await world.add_task()
    await world.tell(task, Status.COMPLETED, result=result, attempts=1)
    await world.objects.delete([damaged])
    if content is not None:
        world.objects.add(damaged, content, "image/png")
    found = (await alice.get(f"{PATH}/{task.task_id}")).json()["result"]
    parts = {part["file_path"]: part for part in (found, *found["thumbnails"])}
    (whole,) = (part for path, part in parts.items() if path != damaged)
    assert whole["url"]
    assert "error" not in whole
    assert parts[damaged]["url"] is None
    assert parts[damaged]["error"]["code"] == "object_damaged"
    assert said in parts[damaged]["error"]["message"]


async def test_a_store_that_is_away_keeps_no_status_back(
    world: World, alice: httpx.AsyncClient, result: dict[str, Any]
) -> None:
    task = await world.add_task()
    await world.tell(task, Status.COMPLETED, result=result, attempts=1)
    world.objects.sick = True
    found = (await alice.get(f"{PATH}/{task.task_id}")).json()["result"]
    assert found["url"]
    assert "error" not in found


async def test_all_files_of_a_result_are_looked_at_at_once(
    world: World,
    alice: httpx.AsyncClient,
    result: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(damage, "LOOK_S", 30.0)
    together = asyncio.Barrier(1 + len(result["thumbnails"]))
    head, met = world.objects.head, []

    async def seen(key: str, *, within_s: float) -> ObjectInfo | None:
        del within_s
        await together.wait()
        met.append(key)
        return await head(key)

    monkeypatch.setattr(world.objects, "seen", seen)
    task = await world.add_task()
    await world.tell(task, Status.COMPLETED, result=result, attempts=1)
    await alice.get(f"{PATH}/{task.task_id}")
    assert len(met) == together.parties > 1


async def test_a_store_that_hangs_is_waited_for_once(
    world: World,
    alice: httpx.AsyncClient,
    result: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(damage, "LOOK_S", 0.05)
    monkeypatch.setattr(damage, "LOOK_AGAIN_S", 600.0)
    asked: list[str] = []

    async def seen(key: str, *, within_s: float) -> None:
        del within_s
        asked.append(key)
        await asyncio.Event().wait()

    monkeypatch.setattr(world.objects, "seen", seen)
    task = await world.add_task()
    await world.tell(task, Status.COMPLETED, result=result, attempts=1)
    for _ in range(3):
        found = (await alice.get(f"{PATH}/{task.task_id}")).json()["result"]
        assert found["url"]
        assert found["thumbnails"][0]["url"]
    assert len(asked) == 1 + len(result["thumbnails"])


async def test_a_failed_task_says_why(world: World, alice: httpx.AsyncClient) -> None:
    task = await world.add_task()
    error = TaskError(code="corrupt_picture", message="it breaks off")
    await world.tell(task, Status.FAILED, error=error, attempts=1)
    body = (await alice.get(f"{PATH}/{task.task_id}")).json()
    assert body["status"] == "failed"
    assert body["error"] == {"code": "corrupt_picture", "message": "it breaks off"}
    assert body["result"] is None


@pytest.mark.parametrize("method", ["GET", "GET events", "POST cancel"])
async def test_anothers_task_is_as_absent_as_none_at_all(
    world: World, bob: httpx.AsyncClient, assert_problem: AssertProblem, method: str
) -> None:
    suffix = {"GET": "", "GET events": "/events", "POST cancel": ":cancel"}[method]
    task = await world.add_task("alice")
    await world.tell(task, Status.COMPLETED)
    bodies = []
    for task_id in (task.task_id, new_id(), "nonsense", "%00", "..%5C", "x" * 5000):
        answer = await bob.request(method.partition(" ")[0], f"{PATH}/{task_id}{suffix}")
        bodies.append(assert_problem(answer, 404, "task_not_found", "task_id"))
    assert bodies[0]["detail"].replace(task.task_id, "") == "no task ''"


async def test_an_operator_sees_everybodys_tasks(world: World, operator: httpx.AsyncClient) -> None:
    tasks = [await world.add_task(name) for name in ("alice", "bob")]
    for task in tasks:
        assert (await operator.get(f"{PATH}/{task.task_id}")).status_code == 200
    listed = (await operator.get(PATH)).json()["items"]
    assert [item["task_id"] for item in listed] == [t.task_id for t in reversed(tasks)]


async def test_a_list_holds_ones_own_tasks_newest_first_page_by_page(
    world: World, alice: httpx.AsyncClient
) -> None:
    mine = [(await world.add_task("alice")).task_id for _ in range(5)]
    await world.add_task("bob")
    read: list[str] = []
    cursor = None
    for expected in (2, 2, 1):
        params = {"limit": "2"} | ({"cursor": cursor} if cursor else {})
        page = (await alice.get(PATH, params=params)).json()
        await world.add_task("alice")
        assert len(page["items"]) == expected
        read += [item["task_id"] for item in page["items"]]
        cursor = page["next_cursor"]
    assert cursor is None
    assert read == mine[::-1]


async def test_a_list_is_filtered_by_status_and_workflow(
    world: World, alice: httpx.AsyncClient
) -> None:
    queued = await world.add_task(workflow="professional-photo-processing")
    done = await world.add_task()
    await world.tell(done, Status.COMPLETED, result=RESULT)

    async def ids(**params: str) -> list[str]:
        items = (await alice.get(PATH, params=params)).json()["items"]
        return [item["task_id"] for item in items]

    assert await ids() == [done.task_id, queued.task_id]
    assert await ids(status="queued") == [queued.task_id]
    assert await ids(status="completed", workflow="nas-photo-processing") == [done.task_id]
    assert await ids(status="completed", workflow="professional-photo-processing") == []
    assert await ids(workflow="none such") == []


@pytest.mark.parametrize(
    ("params", "status", "code", "where"),
    [
        ({"limit": "0"}, 422, "invalid_request", "limit"),
        ({"limit": "201"}, 422, "invalid_request", "limit"),
        ({"limit": "many"}, 422, "invalid_request", "limit"),
        ({"status": "asleep"}, 422, "invalid_request", "status"),
        ({"workflow": "x" * 101}, 422, "invalid_request", "workflow"),
        ({"cursor": "nonsense"}, 400, "invalid_cursor", "cursor"),
        ({"cursor": "\0"}, 400, "invalid_cursor", "cursor"),
        ({"cursor": "x" * 10_000}, 422, "invalid_request", "cursor"),
    ],
)
async def test_a_list_asked_for_wrongly_is_refused(
    alice: httpx.AsyncClient,
    assert_problem: AssertProblem,
    params: dict[str, str],
    status: int,
    code: str,
    where: str,
) -> None:
    assert_problem(await alice.get(PATH, params=params), status, code, where)


@pytest.mark.parametrize("suffix", ["", f"/{new_id()}", f"/{new_id()}/events"])
async def test_a_sick_database_is_no_empty_answer(
    world: World, alice: httpx.AsyncClient, assert_problem: AssertProblem, suffix: str
) -> None:
    world.store.sick = True
    assert_problem(await alice.get(PATH + suffix), 503, "database_unavailable")
