from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import httpx
import msgspec
import pytest
import pytest_asyncio

from functions._kit.messages import new_id, now
from functions._kit.ports import AlertFilter
from functions.alerts.contracts import Alert, Counts, image_key

if TYPE_CHECKING:
    from tests.functions.conftest import World

AssertProblem = Callable[..., dict[str, Any]]
NewAlert = Callable[..., Alert]
PATH = "/api/v1/alerts"
NOON = datetime(2026, 5, 4, 12, 0, 0, tzinfo=UTC)


@pytest_asyncio.fixture
async def reader(world: World) -> httpx.AsyncClient:
    """A caller who may read alerts, and nothing else."""
    return await world.caller("reader", "alerts:read")


@pytest_asyncio.fixture
async def alerts(world: World, new_alert: NewAlert) -> list[Alert]:
    """Five alerts, the newest first; the first two have their pictures."""
    found = [
        new_alert(4, label="person", score=0.9, camera_id="gate"),
        new_alert(3, label="car", score=0.8, camera_id="gate", zone="drive"),
        new_alert(2, label="person", score=0.7, camera_id="door"),
        new_alert(1, label="dog", score=0.6, camera_id="door"),
        new_alert(0, label="person", score=0.5, camera_id="gate"),
    ]
    for number in (0, 1):
        key = image_key(found[number])
        world.objects.add(key, b"picture", "image/jpeg")
        found[number] = msgspec.structs.replace(found[number], image_key=key, frame_bytes=7)
    await world.alert_store.record(found)
    return found


async def get(reader: httpx.AsyncClient, path: str = PATH, **params: Any) -> Any:
    answer = await reader.get(path, params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_an_alert_is_shown_with_all_that_its_reader_may_know(
    reader: httpx.AsyncClient, alerts: list[Alert]
) -> None:
    body = await get(reader)
    assert [item["alert_id"] for item in body["items"]] == [a.alert_id for a in alerts]
    assert body["next_cursor"] is None
    alert = alerts[1]
    assert (
        body["items"][1]
        == await get(reader, f"{PATH}/{alert.alert_id}")
        == {
            "alert_id": alert.alert_id,
            "camera_id": "gate",
            "label": "car",
            "score": 0.8,
            "box": {"x": 0.1, "y": 0.2, "width": 0.3, "height": 0.4},
            "zone": "drive",
            "captured_at": "2026-05-04T12:00:03Z",
            "created_at": "2026-05-04T12:00:03Z",
            "image_url": f"http://objects.invalid/bucket/{alert.image_key}?expires=86400",
            "image_error": None,
            "reviewed": False,
            "model": "nanodet-g-416",
            "model_version": "1",
        }
    )
    assert body["items"][2]["image_url"] is None
    assert body["items"][2]["zone"] is None


async def test_an_alert_whose_picture_is_damaged_says_so(
    world: World, reader: httpx.AsyncClient, alerts: list[Alert]
) -> None:
    key = image_key(alerts[0])
    world.objects.add(key, b"pic", "image/jpeg")
    found = await get(reader, f"{PATH}/{alerts[0].alert_id}")
    assert found["image_url"] is None
    assert found["image_error"]["code"] == "object_damaged"
    assert "has 3 bytes of the 7" in found["image_error"]["message"]
    await world.objects.delete([key])
    answer = await reader.patch(f"{PATH}/{alerts[0].alert_id}", json={"reviewed": True})
    assert "is gone" in answer.json()["image_error"]["message"]


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"camera_id": "door"}, [2, 3]),
        ({"label": "person"}, [0, 2, 4]),
        ({"min_score": "0.7"}, [0, 1, 2]),
        ({"from": "2026-05-04T12:00:02Z"}, [0, 1, 2]),
        ({"to": "2026-05-04T12:00:02Z"}, [3, 4]),
        ({"from": "2026-05-04T14:00:02+02:00", "to": "2026-05-04T12:00:04Z"}, [1, 2]),
        ({"reviewed": "true"}, [4]),
        ({"reviewed": "false"}, [0, 1, 2, 3]),
        ({"camera_id": "gate", "label": "person", "min_score": "0.6"}, [0]),
        ({"camera_id": "nowhere"}, []),
        ({"from": "2026-05-04T12:00:04Z", "to": "2026-05-04T12:00:02Z"}, []),
    ],
)
async def test_each_filter_asks_what_it_says(
    world: World,
    reader: httpx.AsyncClient,
    alerts: list[Alert],
    params: dict[str, str],
    expected: list[int],
) -> None:
    await world.alert_store.review(alerts[4].alert_id, reviewed=True)
    body = await get(reader, **params)
    assert [item["alert_id"] for item in body["items"]] == [alerts[n].alert_id for n in expected]


async def test_pages_show_each_alert_once_while_new_ones_come(
    world: World, reader: httpx.AsyncClient, alerts: list[Alert], new_alert: NewAlert
) -> None:
    found, cursor = [], None
    for number in range(10):
        params: dict[str, Any] = {"limit": 2} if cursor is None else {"limit": 2, "cursor": cursor}
        body = await get(reader, **params)
        found += [item["alert_id"] for item in body["items"]]
        cursor = body["next_cursor"]
        if cursor is None:
            break
        await world.alert_store.record([new_alert(100 + number), new_alert(5)])
    assert found == [alert.alert_id for alert in alerts]


@pytest.mark.parametrize(
    ("params", "status", "code", "field"),
    [
        ({"cursor": "nonsense"}, 400, "invalid_cursor", "cursor"),
        ({"cursor": "A" * 201}, 422, "invalid_request", "cursor"),
        ({"limit": "0"}, 422, "invalid_request", "limit"),
        ({"limit": "201"}, 422, "invalid_request", "limit"),
        ({"limit": "many"}, 422, "invalid_request", "limit"),
        ({"min_score": "1.1"}, 422, "invalid_request", "min_score"),
        ({"min_score": "-0.1"}, 422, "invalid_request", "min_score"),
        ({"min_score": "nan"}, 422, "invalid_request", "min_score"),
        ({"from": "2026-05-04T12:00:00"}, 400, "time_without_zone", "from"),
        ({"to": "2026-05-04T12:00:00"}, 400, "time_without_zone", "to"),
        ({"from": "yesterday"}, 422, "invalid_request", "from"),
        ({"to": "tomorrow"}, 422, "invalid_request", "to"),
        ({"reviewed": "perhaps"}, 422, "invalid_request", "reviewed"),
        ({"label": "x" * 101}, 422, "invalid_request", "label"),
        ({"camera_id": "x" * 101}, 422, "invalid_request", "camera_id"),
    ],
)
async def test_a_question_that_cannot_be_meant_names_its_field(
    reader: httpx.AsyncClient,
    assert_problem: AssertProblem,
    params: dict[str, str],
    status: int,
    code: str,
    field: str,
) -> None:
    assert_problem(await reader.get(PATH, params=params), status, code, field)


async def test_the_longest_page_has_two_hundred_and_an_ordinary_one_fifty(
    world: World, reader: httpx.AsyncClient, new_alert: NewAlert
) -> None:
    await world.alert_store.record([new_alert(number) for number in range(201)])
    assert len((await get(reader))["items"]) == 50
    body = await get(reader, limit=200)
    assert len(body["items"]) == 200
    assert len((await get(reader, cursor=body["next_cursor"]))["items"]) == 1


async def test_a_reader_marks_an_alert_and_unmarks_it(
    reader: httpx.AsyncClient, alerts: list[Alert]
) -> None:
    path = f"{PATH}/{alerts[0].alert_id}"
    whole = await get(reader, path)
    for reviewed in (True, True, False):
        answer = await reader.patch(path, json={"reviewed": reviewed})
        assert (answer.status_code, answer.json()) == (200, whole | {"reviewed": reviewed})
        assert await get(reader, path) == whole | {"reviewed": reviewed}
        assert len((await get(reader, reviewed=reviewed))["items"]) == (1 if reviewed else 5)


@pytest.mark.parametrize(
    "body", [{}, {"reviewed": None}, {"reviewed": "yes"}, {"reviewed": True, "label": "cat"}, []]
)
async def test_nothing_else_of_an_alert_can_be_changed(
    reader: httpx.AsyncClient, alerts: list[Alert], assert_problem: AssertProblem, body: Any
) -> None:
    answer = await reader.patch(f"{PATH}/{alerts[0].alert_id}", json=body)
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (422, "invalid_request")
    assert assert_problem(answer, 422, "invalid_request", problem["field"])


@pytest.mark.parametrize("alert_id", [new_id(), "nonsense", "x" * 3000])
async def test_an_alert_that_is_not_there_is_not_found(
    reader: httpx.AsyncClient, assert_problem: AssertProblem, alert_id: str
) -> None:
    path = f"{PATH}/{alert_id}"
    assert_problem(await reader.get(path), 404, "alert_not_found", "alert_id")
    answer = await reader.patch(path, json={"reviewed": True})
    assert_problem(answer, 404, "alert_not_found", "alert_id")


async def test_an_id_is_known_however_it_is_written(
    reader: httpx.AsyncClient, alerts: list[Alert]
) -> None:
    alert_id = alerts[0].alert_id
    assert (await get(reader, f"{PATH}/{alert_id.upper()}"))["alert_id"] == alert_id


async def test_alerts_are_counted_by_hour_camera_and_label(
    world: World, reader: httpx.AsyncClient, alerts: list[Alert], new_alert: NewAlert
) -> None:
    await world.alert_store.record([new_alert(3600), new_alert(3601), new_alert(7199)])
    body = await get(reader, f"{PATH}/counts")
    rows = [(i["hour"], i["camera_id"], i["label"], i["count"]) for i in body["items"]]
    noon, one = "2026-05-04T12:00:00Z", "2026-05-04T13:00:00Z"
    assert rows == [
        (noon, "door", "dog", 1),
        (noon, "door", "person", 1),
        (noon, "gate", "car", 1),
        (noon, "gate", "person", 2),
        (one, "gate", "person", 3),
    ]
    params = {"camera_id": "gate", "label": "person", "min_score": 0.6, "to": one}
    body = await get(reader, f"{PATH}/counts", **params)
    assert [item["count"] for item in body["items"]] == [1]
    assert (await get(reader, f"{PATH}/counts", **{"from": "2027-01-01T00:00:00Z"}))["items"] == []


async def test_counts_ask_for_moments_with_an_offset(
    reader: httpx.AsyncClient, assert_problem: AssertProblem
) -> None:
    for path in (f"{PATH}/counts", "/api/v1/cameras/gate/counts"):
        for field in ("from", "to"):
            answer = await reader.get(path, params={field: "2026-05-04T12:00:00"})
            assert_problem(answer, 400, "time_without_zone", field)


async def test_what_made_no_alert_is_shown_by_hour(
    world: World, reader: httpx.AsyncClient, assert_problem: AssertProblem
) -> None:
    hour = now().replace(minute=0, second=0, microsecond=0)
    old = hour - timedelta(hours=26)
    await world.alert_store.record_counts(
        [
            Counts(source=source, camera_id=camera_id, hour=at, name=name, count=count)
            for source, camera_id, at, name, count in (
                ("a", "gate", hour, "frames", 7),
                ("b", "gate", hour, "frames", 5),
                ("a", "gate", hour, "ignored.cup", 2),
                ("a", "gate", hour - timedelta(hours=3), "shed", 9),
                ("a", "gate", old, "frames", 1),
                ("a", "door", hour, "frames", 100),
            )
        ]
    )
    path = "/api/v1/cameras/gate/counts"

    def shown(at: datetime, **counts: int) -> dict[str, Any]:
        named = {name.replace("_", "."): count for name, count in counts.items()}
        return {"hour": at.isoformat().replace("+00:00", "Z"), "counts": named}

    assert (await get(reader, path))["items"] == [
        shown(hour - timedelta(hours=3), shed=9),
        shown(hour, frames=12, ignored_cup=2),
    ]
    params = {"from": old.isoformat(), "to": (old + timedelta(hours=1)).isoformat()}
    assert (await get(reader, path, **params))["items"] == [shown(old, frames=1)]
    assert (await get(reader, "/api/v1/cameras/nobody/counts"))["items"] == []
    answer = await reader.get("/api/v1/cameras/a.b/counts")
    assert_problem(answer, 404, "camera_not_found", "camera_id")


async def test_a_sick_database_is_503_and_never_an_empty_page(
    world: World, reader: httpx.AsyncClient, alerts: list[Alert], assert_problem: AssertProblem
) -> None:
    world.alert_store.sick = True
    one = f"{PATH}/{alerts[0].alert_id}"
    for path in (PATH, one, f"{PATH}/counts", "/api/v1/cameras/gate/counts", "/api/v1/cameras"):
        assert_problem(await reader.get(path), 503, "database_unavailable")
    answer = await reader.patch(one, json={"reviewed": True})
    assert_problem(answer, 503, "database_unavailable")
    world.alert_store.sick = False
    page = await world.alert_store.page(AlertFilter(reviewed=True), cursor=None, limit=1)
    assert page.rows == []


async def test_a_sick_store_keeps_nobody_from_reading(
    world: World, reader: httpx.AsyncClient, alerts: list[Alert]
) -> None:
    world.objects.sick = world.stream.sick = world.inference.sick = True
    assert len((await get(reader))["items"]) == len(alerts)


async def test_a_reader_cannot_set_rules_and_a_camera_cannot_read(
    world: World, reader: httpx.AsyncClient, assert_problem: AssertProblem
) -> None:
    camera = await world.caller("camera-1", "frames:write")
    assert_problem(await camera.get(PATH), 403, "scope_missing", "scope")
    answer = await reader.put("/api/v1/cameras/gate", json={})
    assert_problem(answer, 403, "scope_missing", "scope")
