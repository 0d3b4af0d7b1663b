"""Alerts as they come, over server-sent events."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

import httpx
import msgspec
import pytest
import pytest_asyncio

from functions._kit import sse
from functions.alerts.contracts import Alert, alert_subject, image_key, image_subject

if TYPE_CHECKING:
    from tests.functions.alerts.conftest import Listener
    from tests.functions.conftest import World

NewAlert = Callable[..., Alert]
AssertProblem = Callable[..., dict[str, Any]]
Listening = Callable[..., AbstractAsyncContextManager["Listener"]]
PATH = "/api/v1/alerts/stream"


@pytest_asyncio.fixture
async def reader(world: World) -> httpx.AsyncClient:
    return await world.caller("reader", "alerts:read")


@pytest.fixture
def token(reader: httpx.AsyncClient) -> str:
    return str(reader.headers["authorization"])


async def tell(world: World, alert: Alert) -> int:
    """The fact that there is an alert; its number in the stream."""
    return (await world.stream.publish(alert_subject(alert.camera_id), alert)).sequence


async def keep(world: World, alert: Alert) -> int:
    """The fact that its picture has been kept."""
    kept = msgspec.structs.replace(alert, image_key=image_key(alert))
    return (await world.stream.publish(image_subject(alert.camera_id), kept)).sequence


async def test_a_follower_hears_of_the_alert_at_once_and_then_of_its_picture(
    world: World, reader: httpx.AsyncClient, token: str, listening: Listening, new_alert: NewAlert
) -> None:
    alert = new_alert()
    async with listening(PATH, token) as listener:
        assert listener.status == 200
        numbers = [await tell(world, alert), await keep(world, alert)]
        first, second = await listener.event(), await listener.event()
    assert [first["event"], second["event"]] == ["alert", "image"]
    assert [int(first["id"]), int(second["id"])] == numbers
    url = f"http://objects.invalid/bucket/{image_key(alert)}?expires=86400"
    await world.alert_store.record([alert])
    shown = (await reader.get(f"/api/v1/alerts/{alert.alert_id}")).json()
    assert first["data"] == shown
    assert second["data"] == shown | {"image_url": url}


async def test_without_an_id_only_what_is_new_is_heard(
    world: World, token: str, listening: Listening, new_alert: NewAlert
) -> None:
    await tell(world, new_alert(1))
    async with listening(PATH, token) as listener:
        number = await tell(world, new_alert(2))  # from the answer's first byte on
        assert int((await listener.event())["id"]) == number


@pytest.mark.parametrize("seen", range(1, 5))
async def test_one_who_comes_back_misses_nothing_and_hears_nothing_twice(
    world: World, token: str, listening: Listening, new_alert: NewAlert, seen: int
) -> None:
    numbers = []
    for number in range(2):
        alert = new_alert(number)
        numbers.append(await tell(world, alert))
        await world.stream.publish("events.task.x", alert)  # another's
        numbers.append(await keep(world, alert))
    async with listening(PATH, token, last=str(numbers[seen - 1])) as listener:
        numbers.append(await tell(world, new_alert(3)))
        heard = [int((await listener.event())["id"]) for _ in numbers[seen:]]
    assert heard == numbers[seen:]


@pytest.mark.parametrize("last", ["99999999", "9" * 19, "0", "", "nonsense", "-1"])
async def test_an_id_of_the_future_or_of_nobody_begins_now(
    world: World, token: str, listening: Listening, new_alert: NewAlert, last: str
) -> None:
    await tell(world, new_alert(1))
    async with listening(PATH, token, last=last) as listener:
        number = await tell(world, new_alert(2))
        assert int((await listener.event())["id"]) == number


async def test_an_id_of_the_future_begins_with_a_new_streams_first_alert(
    world: World, token: str, listening: Listening, new_alert: NewAlert
) -> None:
    async with listening(PATH, token, last="12345") as listener:
        assert await tell(world, new_alert()) == 1
        assert int((await listener.event())["id"]) == 1


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("camera_id=gate", ["a", "b", "c"]),
        ("label=person", ["a", "c", "d"]),
        ("min_score=0.8", ["a", "b", "d"]),
        ("camera_id=gate&label=person&min_score=0.8", ["a"]),
    ],
)
async def test_a_follower_hears_what_it_asked_for(
    world: World,
    token: str,
    listening: Listening,
    new_alert: NewAlert,
    query: str,
    expected: list[str],
) -> None:
    async with listening(f"{PATH}?{query}", token) as listener:
        for model, camera_id, label, score in (
            ("a", "gate", "person", 0.9),
            ("b", "gate", "car", 0.8),
            ("c", "gate", "person", 0.7),
            ("d", "door", "person", 0.9),
        ):
            alert = new_alert(camera_id=camera_id, label=label, score=score, model=model)
            await tell(world, alert)
            await keep(world, alert)
        heard = [await listener.event() for _ in range(2 * len(expected))]
        await tell(world, new_alert(model="last", score=1.0))
        assert (await listener.event())["data"]["model"] == "last"
    models = [(event["data"]["model"], event["event"]) for event in heard]
    assert models == [(model, kind) for model in expected for kind in ("alert", "image")]


async def test_a_message_that_is_no_alert_ends_no_stream(
    world: World, token: str, listening: Listening, new_alert: NewAlert
) -> None:
    seen = await tell(world, new_alert(1))
    await world.stream.publish_bytes("events.alert.gate", b"\xff no alert")
    number = await tell(world, new_alert(2))
    async with listening(PATH, token, last=str(seen)) as listener:
        assert int((await listener.event())["id"]) == number


async def test_a_quiet_stream_shows_that_it_lives(
    world: World,
    token: str,
    listening: Listening,
    new_alert: NewAlert,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sse, "HEARTBEAT_S", 0.02)
    async with listening(PATH, token) as listener:
        assert [await listener.block() for _ in range(3)] == [": still here"] * 3
        await tell(world, new_alert())
        assert (await listener.event())["event"] == "alert"


async def test_text_from_outside_cannot_forge_an_event(
    world: World, token: str, listening: Listening, new_alert: NewAlert
) -> None:
    zone = "a\r\n\r\nevent: alert\r\ndata: {}\r\n\r\n"
    async with listening(PATH, token) as listener:
        await tell(world, new_alert(zone=zone))
        await tell(world, new_alert(zone="next"))
        assert [(await listener.event())["data"]["zone"] for _ in range(2)] == [zone, "next"]


async def test_a_sick_queue_is_no_silent_stream(
    world: World, reader: httpx.AsyncClient, assert_problem: AssertProblem
) -> None:
    world.stream.sick = True
    assert_problem(await reader.get(PATH), 503, "queue_unavailable")


@pytest.mark.parametrize(
    ("query", "field"),
    [("min_score=2", "min_score"), ("label=" + "x" * 101, "label"), ("min_score=x", "min_score")],
)
async def test_a_question_that_cannot_be_meant_is_refused(
    reader: httpx.AsyncClient, assert_problem: AssertProblem, query: str, field: str
) -> None:
    assert_problem(await reader.get(f"{PATH}?{query}"), 422, "invalid_request", field)
