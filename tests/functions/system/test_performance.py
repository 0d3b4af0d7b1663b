"""The live figures: they agree with what a test has counted itself."""

from __future__ import annotations

import asyncio
import io
import threading
import time
import wave
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import pytest_asyncio

from functions._kit.errors import Unavailable
from functions._kit.fakes import audio
from functions._kit.messages import new_id, now
from functions._kit.ports import (
    ConversionFigures,
    LanguageModelUsage,
    ProcessFigures,
    Sound,
    TranscriptionFigures,
    Usage,
)
from functions._kit.sound import convert

if TYPE_CHECKING:
    from tests.functions.conftest import World

STATUS, PERFORMANCE = "/api/v1/concurrent-status", "/api/v1/performance"
NAMES = {
    "active_conversions",
    "max_concurrent",
    "utilization_percent",
    "total_conversions",
    "average_processing_time",
    "queue_length",
    "cpu_percent",
    "memory_usage",
}


def silence(samples: int) -> bytes:
    """A WAV of 8 kHz."""
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(2 * samples))
    return content.getvalue()


def other_process(**figures: Any) -> ProcessFigures:
    given = {
        "process_id": new_id(),
        "name": "nereid-work",
        "role": "work",
        "since": now(),
        "conversions": ConversionFigures(
            active=3, max_concurrent=4, waiting=5, completed=10, failed=2, total_time_s=4.0
        ),
        "transcriptions": TranscriptionFigures(
            active=1, completed=4, audio_s=240.0, total_time_s=8.0
        ),
        "usage": Usage(cpu_percent=150.0, memory_bytes=1000, machine_cpu_percent=99.0),
    }
    return ProcessFigures(**(given | figures))  # type: ignore[arg-type]


@pytest_asyncio.fixture
async def carol(world: World) -> httpx.AsyncClient:
    return await world.caller("carol", "audio:write")


async def ask(caller: httpx.AsyncClient, path: str) -> dict[str, Any]:
    answer = await caller.get(path)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def test_in_the_beginning_all_is_zero(carol: httpx.AsyncClient) -> None:
    status = await ask(carol, STATUS)
    assert set(status) == NAMES
    assert status.pop("max_concurrent") == 2
    assert set(status.values()) == {0}


async def test_they_agree_with_what_was_counted_whatever_goes_on_at_once(
    world: World, carol: httpx.AsyncClient
) -> None:
    good = [silence(800 + n) for n in range(30)]
    bad = [silence(100 + n)[:44] + b"x" for n in range(10)]
    began = time.monotonic()
    answers = await asyncio.gather(
        *(carol.post("/api/v1/audio:convert", content=c) for c in [*good, *bad, *good])
    )
    took_s = time.monotonic() - began
    statuses = [answer.status_code for answer in answers]
    hits = [answer.headers.get("nereid-cache") for answer in answers].count("hit")
    assert (statuses.count(200), statuses.count(422), hits) == (60, 10, 30)
    found = await ask(carol, PERFORMANCE)
    assert found["total_conversions"] == 30
    assert found["failed_conversions"] == 10
    assert (found["active_conversions"], found["queue_length"]) == (0, 0)
    assert 0 < found["average_processing_time"] * 30 < took_s * 2
    await world.in_flight.finish()


async def test_what_runs_and_what_waits_is_told_while_it_does(
    world: World, carol: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_end = threading.Event()

    def held(*given: Any, **options: Any) -> Sound:
        assert may_end.wait(60)
        return convert(*given, **options)

    monkeypatch.setattr(audio, "convert", held)
    sounds = [silence(800 + n) for n in range(6)]
    sending = [
        asyncio.create_task(carol.post("/api/v1/audio:convert", content=sound)) for sound in sounds
    ]
    async with asyncio.timeout(60):
        while (await ask(carol, STATUS))["queue_length"] < 4:
            await asyncio.sleep(0.01)
    status = await ask(carol, STATUS)
    may_end.set()
    assert (status["active_conversions"], status["queue_length"]) == (2, 4)
    assert (status["utilization_percent"], status["total_conversions"]) == (100.0, 0)
    await asyncio.gather(*sending)
    status = await ask(carol, STATUS)
    assert (status["active_conversions"], status["queue_length"]) == (0, 0)
    assert (status["utilization_percent"], status["total_conversions"]) == (0.0, 6)
    await world.in_flight.finish()


async def test_processes_are_added_up(world: World, carol: httpx.AsyncClient) -> None:
    early = now() - timedelta(days=1)
    world.figures.others = [other_process(since=early), other_process()]
    world.figures.usage = Usage(cpu_percent=10.0, memory_bytes=50, machine_cpu_percent=42.0)
    with world.figures.transcribing():
        world.figures.add_transcription(10.0, 1.0)
        found = await ask(carol, PERFORMANCE)
    assert {name: found[name] for name in NAMES} == {
        "active_conversions": 6,
        "max_concurrent": 10,
        "utilization_percent": 60.0,
        "total_conversions": 20,
        "average_processing_time": 0.4,
        "queue_length": 10,
        "cpu_percent": 42.0,
        "memory_usage": 2050,
    }
    assert {name: found[name] for name in NAMES} == await ask(carol, STATUS)
    assert found["failed_conversions"] == 4
    assert found["transcriptions"] == {
        "active": 3,
        "total": 9,
        "audio_seconds": 490.0,
        "average_processing_time": pytest.approx(17 / 9, abs=1e-4),
    }
    assert found["since"] == early.isoformat().replace("+00:00", "Z")
    assert [p["role"] for p in found["processes"]] == ["serve", "work", "work"]
    assert found["processes"][1]["total_conversions"] == 10
    assert found["processes"][1]["cpu_percent"] == 150.0
    assert found["processes"][1]["transcriptions"]["audio_seconds"] == 240.0


async def test_nothing_is_divided_by_nothing(world: World, carol: httpx.AsyncClient) -> None:
    none = ConversionFigures(
        active=0, max_concurrent=0, waiting=0, completed=0, failed=0, total_time_s=0.0
    )
    only = replace(other_process(), conversions=none, transcriptions=TranscriptionFigures())
    world.figures.all = lambda: [only]  # type: ignore[method-assign]
    found = await ask(carol, PERFORMANCE)
    assert (found["utilization_percent"], found["average_processing_time"]) == (0, 0)


async def test_the_language_models_quota_is_told_or_left_open(
    world: World, carol: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = await world.language_model.usage()
    found = (await ask(carol, PERFORMANCE))["language_model"]
    assert set(found) == {"model", "requests_today", "requests_per_day", "resets_at"}
    assert found["requests_today"] == usage.requests_today

    async def away() -> LanguageModelUsage:
        raise Unavailable("queue", "JetStream does not answer")

    monkeypatch.setattr(world.language_model, "usage", away)
    assert (await ask(carol, PERFORMANCE))["language_model"] is None


@pytest.mark.parametrize("path", [STATUS, PERFORMANCE])
async def test_they_are_for_those_who_may_send_sound_or_watch_over_all(
    world: World, path: str, assert_problem: Callable[..., dict[str, Any]]
) -> None:
    await ask(await world.caller("watch", "system:read"), path)
    dave = await world.caller("dave", "media:read", "media:write")
    assert_problem(await dave.get(path), 403, "scope_missing", "scope")
