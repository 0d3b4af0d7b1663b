"""A recording becomes words, and what the language model makes of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import pytest_asyncio

from functions._kit.messages import new_id
from functions._kit.ports import SPEECH, LanguageModelError
from functions.audio import translate
from functions.audio.contracts import CONVERTED_PREFIX, incoming_key
from tests.functions.audio.recordings import LONG, SHORT, Leaver, files_in, task_of, wav

if TYPE_CHECKING:
    from tests.functions.conftest import World

AssertProblem = Callable[..., dict[str, Any]]
PATH = "/api/v1/translate_audio"
ALWAYS = {
    "status", "transcription", "duration", "language", "model", "model_version", "processing_time",
    "audio",
}  # fmt: skip
GERMAN = {"user_prompt": "German"}


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    return make_world(max_upload_bytes=2 << 20, max_audio_s=100.0)


@pytest_asyncio.fixture(autouse=True)
async def _nothing_left_in_scratch(world: World, tmp_path: Path) -> AsyncIterator[None]:
    yield
    await world.in_flight.finish()
    assert files_in(tmp_path) == []


@pytest_asyncio.fixture
async def dora(world: World) -> httpx.AsyncClient:
    """A caller who may send sound, and nothing else."""
    return await world.caller("dora", "audio:write")


async def send(caller: httpx.AsyncClient, sound: bytes = SHORT, /, **form: Any) -> httpx.Response:
    headers = form.pop("headers", None)
    return await caller.post(PATH, files={"audio_file": sound}, data=form, headers=headers)


async def answered(caller: httpx.AsyncClient, sound: bytes = SHORT, /, **form: str) -> Any:
    answer = await send(caller, sound, **form)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_a_recording_is_answered_with_its_words(
    world: World, dora: httpx.AsyncClient
) -> None:
    body = await answered(dora)
    assert set(body) == ALWAYS
    assert body["status"] == "success"
    assert body["transcription"] == f"{world.inference.says} {world.inference.says}"
    assert body["language"] == "en"
    assert body["duration"] == pytest.approx(5.0, abs=0.01)
    assert 0 < body["processing_time"] < 60
    assert world.language_model.asked == []
    (figures,) = world.figures.all()
    assert (figures.transcriptions.completed, figures.conversions.completed) == (1, 1)


async def test_the_url_leads_to_what_was_heard(world: World, dora: httpx.AsyncClient) -> None:
    url = httpx.URL((await answered(dora))["audio"]["url"])
    (key,) = world.objects.contents
    assert key.startswith(CONVERTED_PREFIX)
    assert key.endswith(SPEECH.name)
    assert key in url.path
    heard = world.objects.contents[key]
    assert heard.startswith(b"RIFF")
    assert len(heard) == pytest.approx(5 * 32_000, abs=400)


async def test_the_same_recording_is_converted_once(world: World, dora: httpx.AsyncClient) -> None:
    first, *others = await asyncio.gather(*(answered(dora) for _ in range(5)))
    others.append(await answered(dora))
    assert {other["transcription"] for other in others} == {first["transcription"]}
    assert world.converter.figures().completed == 1
    assert len(world.objects.contents) == 1


async def test_a_prompt_is_answered_by_the_language_model(
    world: World, dora: httpx.AsyncClient
) -> None:
    body = await answered(dora, **GERMAN)
    assert set(body) == ALWAYS | {"translation"}
    assert body["translation"] == body["transcription"].upper()
    ((instructions, text),) = world.language_model.asked
    assert "German" in instructions
    assert text == body["transcription"]


@pytest.mark.parametrize("prompt", ["", "  \n"])
async def test_an_empty_prompt_asks_for_nothing(
    world: World, dora: httpx.AsyncClient, prompt: str
) -> None:
    assert set(await answered(dora, user_prompt=prompt)) == ALWAYS
    assert world.language_model.asked == []


async def test_without_a_language_model_the_answer_says_why_and_has_the_words(
    world: World, dora: httpx.AsyncClient
) -> None:
    world.language_model.model = None
    body = await answered(dora, **GERMAN)
    assert set(body) == ALWAYS | {"translation_error"}
    assert body["translation_error"]["code"] == "language_model_not_set"
    assert "NEREID_LLM_URL" in body["translation_error"]["message"]
    assert body["transcription"]


async def test_a_language_model_that_fails_costs_nothing_but_the_translation(
    world: World, dora: httpx.AsyncClient
) -> None:
    refused = LanguageModelError("language_model_refused", "too rude")
    world.language_model.failures.append(refused)
    body = await answered(dora, **GERMAN)
    assert body["translation_error"] == {"code": "language_model_refused", "message": "too rude"}
    assert body["transcription"]


async def test_a_slow_language_model_is_not_waited_for(
    world: World, dora: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(translate, "LONGEST_TRANSLATION_S", 0.05)
    world.language_model.open.clear()
    body = await answered(dora, **GERMAN)
    assert body["translation_error"]["code"] == "language_model_busy"
    assert "async=true" in body["translation_error"]["message"]
    assert body["transcription"]
    assert world.language_model.waiting == 0


@pytest.mark.parametrize(
    ("prompt", "steps"),
    [({}, ["audio.transcribe"]), (GERMAN, ["audio.transcribe", "audio.prompt"])],
    ids=["words", "prompt"],
)
async def test_a_long_recording_becomes_a_task(
    world: World, dora: httpx.AsyncClient, prompt: dict[str, str], steps: list[str]
) -> None:
    answer = await send(dora, LONG, **prompt)
    assert answer.status_code == 202, answer.text
    body = answer.json()
    assert body["status"] == "queued"
    assert answer.headers["location"] == body["status_url"]
    assert body["status_url"].endswith(body["task_id"])
    seen = (await dora.get(body["status_url"])).json()
    assert (seen["status"], seen["workflow"]) == ("queued", "audio-transcription")
    (job,) = world.jobs("jobs.audio.transcribe.normal")
    assert job["source_key"] == incoming_key(body["task_id"])
    assert world.objects.contents == {job["source_key"]: LONG}
    assert [step["function"] for step in job["steps"]] == steps
    assert job.get("user_prompt") == prompt.get("user_prompt")
    assert world.inference.heard_at == []


async def test_async_makes_a_task_of_any_recording(world: World, dora: httpx.AsyncClient) -> None:
    form = {"async": "true", "priority": "1", "callback_url": "https://example.com/done"}
    answer = await send(dora, SHORT, **form)
    assert answer.status_code == 202, answer.text
    task = task_of(world)
    assert task.task_id == answer.json()["task_id"]
    assert (task.priority, task.callback_url) == (1, "https://example.com/done")
    assert len(world.jobs("jobs.audio.transcribe.low")) == 1


async def test_the_same_idempotency_key_gives_the_same_task(
    world: World, dora: httpx.AsyncClient, assert_problem: AssertProblem
) -> None:
    headers = {"Idempotency-Key": new_id()}
    first, second = [await send(dora, LONG, headers=headers, **GERMAN) for _ in range(2)]
    assert (first.status_code, first.json()) == (202, second.json())
    task_of(world)
    others: list[tuple[bytes, dict[str, str]]] = [(LONG, {}), (LONG + bytes(2), GERMAN)]
    for sound, form in others:
        answer = await send(dora, sound, headers=headers, **form)
        assert_problem(answer, 409, "idempotency_key_reused", "Idempotency-Key")
    assert len(world.jobs()) == 1


async def test_what_cannot_be_is_refused_with_its_field(
    world: World, dora: httpx.AsyncClient, assert_problem: AssertProblem
) -> None:
    for form, code, field in (
        ({"priority": "0"}, "invalid_request", "priority"),
        ({"priority": "soon"}, "invalid_request", "priority"),
        ({"async": "maybe"}, "invalid_request", "async"),
        ({"user_prompts": "German"}, "invalid_request", "user_prompts"),
        ({"x" * 2000: "German"}, "invalid_request", "x" * 64),
        ({"callback_url": "http://localhost/"}, "invalid_callback_url", "callback_url"),
    ):
        assert_problem(await send(dora, SHORT, **form), 422, code, field)
    answer = await send(dora, SHORT, user_prompt="x" * 5000)
    assert_problem(answer, 400, "field_too_long", "user_prompt")
    answer = await send(dora, b"x" * (3 << 20))
    assert_problem(answer, 413, "body_too_large", "audio_file")
    answer = await send(dora, wav((101.0, False)))
    assert_problem(answer, 422, "audio_too_long", "audio_file")
    assert world.jobs() == []
    assert world.objects.contents == {}


async def test_what_is_no_sound_is_refused_at_once(
    world: World, dora: httpx.AsyncClient, photo: bytes, assert_problem: AssertProblem
) -> None:
    for content, status, code in (
        (b"", 422, "empty_body"),
        (photo, 415, "unsupported_audio"),
        (SHORT[:900], 422, "undecodable_audio"),
    ):
        for form in ({}, {"async": "true"}):
            assert_problem(await send(dora, content, **form), status, code, "audio_file")
    answer = await dora.post(PATH, content=SHORT)
    assert "error" not in assert_problem(answer, 415, "form_expected", "audio_file")
    answer = await dora.post(PATH, files={"file": SHORT})
    assert_problem(answer, 422, "file_missing", "audio_file")
    assert "'file'" in answer.json()["detail"]
    assert world.jobs() == []
    assert world.objects.contents == {}


async def test_each_caller_of_one_bad_recording_is_told_the_name_of_its_own_field(
    dora: httpx.AsyncClient,
) -> None:
    bad, form = b"no sound at all", {"model": "whisper-1"}
    answers = await asyncio.gather(
        *(send(dora, bad) for _ in range(3)),
        *(dora.post("/v1/audio/transcriptions", files={"file": bad}, data=form) for _ in range(3)),
    )
    assert [a.json()["code"] for a in answers] == ["unsupported_audio"] * 6
    assert [a.json()["field"] for a in answers] == ["audio_file"] * 3 + ["file"] * 3


async def test_a_url_is_promised_so_a_sick_bucket_is_a_503(
    world: World, dora: httpx.AsyncClient, assert_problem: AssertProblem
) -> None:
    world.objects.sick = True
    answer = await send(dora)
    assert_problem(answer, 503, "s3_unavailable")
    assert int(answer.headers["retry-after"]) > 0


async def test_a_full_queue_leaves_no_recording_behind(
    world: World, dora: httpx.AsyncClient, assert_problem: AssertProblem
) -> None:
    world.stream.max_messages["jobs"] = 0
    assert_problem(await send(dora, LONG), 503, "queue_full")
    assert world.objects.contents == {}


async def test_a_client_that_goes_away_stops_its_transcription(
    world: World, dora: httpx.AsyncClient
) -> None:
    world.inference.open.clear()
    token = dora.headers["authorization"]
    async with Leaver(world, PATH, token, GERMAN, audio_file=SHORT), asyncio.timeout(60):
        await world.inference.asked.wait()
        assert world.inference.hearing > 0
    assert world.inference.hearing == 0
    assert world.language_model.asked == []
