"""OpenAI's API, as the official client sees it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import msgspec
import openai
import pytest
import pytest_asyncio

from functions._kit.fakes import FakeAudioConverter
from functions._kit.messages import new_id
from functions.audio.contracts import Segment, Transcript, incoming_key, transcript_key
from functions.tasks.contracts import Status, Task, TaskError
from tests.functions.audio.recordings import LONG, SHORT, Leaver, files_in, task_of, wav, works

if TYPE_CHECKING:
    from tests.functions.conftest import World

AssertProblem = Callable[..., dict[str, Any]]
PATH = "/v1/audio/transcriptions"
KEY = "nereid-key-1"
FORM = {"model": "whisper-1"}


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    return make_world(max_upload_bytes=2 << 20, max_audio_s=100.0)


@pytest_asyncio.fixture(autouse=True)
async def _nothing_left_in_scratch(world: World, tmp_path: Path) -> AsyncIterator[None]:
    yield
    await world.in_flight.finish()  # conversions are put into the bucket beside the answer
    assert files_in(tmp_path) == []


@pytest_asyncio.fixture
async def client(world: World) -> AsyncIterator[openai.AsyncOpenAI]:
    """OpenAI's own client, with nothing changed but the address and the key."""
    await world.add_key("alice", KEY, "audio:write")
    http = httpx.AsyncClient(transport=httpx.ASGITransport(world.app))  # type: ignore[arg-type]
    async with a_client(http, KEY) as found:
        yield found


def a_client(http: httpx.AsyncClient, key: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(
        api_key=key,
        base_url="http://nereid.test/v1",
        http_client=http,  # type: ignore[arg-type]
        max_retries=0,
    )


async def ask(client: openai.AsyncOpenAI, sound: bytes = SHORT, **options: Any) -> Any:
    """A transcription of `sound`; `whisper-1` unless `options` say more."""
    given = {"model": "whisper-1", "file": ("speech.wav", sound), **options}
    return await client.audio.transcriptions.create(**given)


async def test_json_is_the_text(world: World, client: openai.AsyncOpenAI) -> None:
    said = await ask(client)
    assert said.text == f"{world.inference.says} {world.inference.says}"
    assert set(world.inference.heard_at) == {1}
    (figures,) = world.figures.all()
    assert (figures.transcriptions.completed, figures.transcriptions.active) == (1, 0)
    assert figures.transcriptions.audio_s == pytest.approx(5.0, abs=0.01)


async def test_each_format_has_its_content_type(client: openai.AsyncOpenAI) -> None:
    plain = "text/plain; charset=utf-8"
    kinds = {"json": "application/json", "verbose_json": "application/json"}
    kinds |= {"text": plain, "srt": plain, "vtt": plain}
    for form, kind in kinds.items():
        raw = await client.audio.transcriptions.with_raw_response.create(
            model="whisper-1", file=("speech.wav", SHORT), extra_body={"response_format": form}
        )
        assert (raw.status_code, raw.headers["content-type"]) == (200, kind), form


async def test_texts_come_as_texts(world: World, client: openai.AsyncOpenAI) -> None:
    words = world.inference.says
    assert await ask(client, response_format="text") == f"{words} {words}\n"
    srt = await ask(client, response_format="srt")
    vtt = await ask(client, response_format="vtt")
    first, second = srt.strip().split("\n\n")
    assert first.startswith("1\n00:00:00,")
    assert second.startswith("2\n00:00:0")
    assert first.endswith(words)
    assert vtt.startswith("WEBVTT\n\n00:00:00.")
    assert vtt.count(words) == vtt.count(" --> ") == 2


async def test_verbose_json_has_segments_with_times(
    world: World, client: openai.AsyncOpenAI
) -> None:
    said = await ask(
        client, response_format="verbose_json", timestamp_granularities=["segment"], language="en"
    )
    assert said.language == "english"
    assert said.duration == pytest.approx(5.0, abs=0.01)
    assert said.to_dict()["task"] == "transcribe"
    first, second = said.segments
    assert (first.id, second.id) == (0, 1)
    # speech is at 0.5 to 1.5 and at 3 to 4 seconds; 0.2 s around it are kept
    assert first.start == pytest.approx(0.3, abs=0.07)
    assert first.end == pytest.approx(1.7, abs=0.07)
    assert second.start == pytest.approx(2.8, abs=0.07)
    assert second.end == pytest.approx(4.2, abs=0.07)
    assert first.text == world.inference.says
    assert (first.tokens, first.avg_logprob, first.temperature) == ([7, 8, 9], -0.25, 0)
    assert 0 < first.compression_ratio < 2
    assert 0 <= first.no_speech_prob < 1
    assert first.seek == round(first.start * 100)


async def test_silence_is_no_words(client: openai.AsyncOpenAI) -> None:
    silence = wav((1.0, False))
    assert (await ask(client, silence)).text == ""
    assert await ask(client, silence, response_format="srt") == ""
    assert await ask(client, silence, response_format="vtt") == "WEBVTT\n"
    said = await ask(client, silence, response_format="verbose_json")
    assert (said.text, said.segments, said.duration) == ("", [], 1.0)


async def test_openais_names_and_the_served_models_own_mean_what_is_served(
    world: World, client: openai.AsyncOpenAI
) -> None:
    names = {"whisper-1", "gpt-transcribe", "gpt-4o-transcribe", "gpt-4o-mini-transcribe"}
    for model in (*names, "moonshine-tiny-en"):
        assert world.inference.says in (await ask(client, model=model)).text


async def test_hints_are_taken_and_change_nothing(client: openai.AsyncOpenAI) -> None:
    plain = await ask(client)
    hinted = await ask(
        client, model="gpt-transcribe", prompt="Dickens", temperature=0.7, languages=["en"],
        keywords=["Sydney Carton", "Lucie Manette"], chunking_strategy="auto", language="English",
    )  # fmt: skip
    assert hinted.text == plain.text


async def test_the_words_stream_as_events(world: World, client: openai.AsyncOpenAI) -> None:
    stream = await ask(client, model="gpt-4o-transcribe", stream=True)
    events = [event async for event in stream]
    kinds = [event.type for event in events]
    assert kinds == ["transcript.text.delta"] * 2 + ["transcript.text.done"]
    assert "".join(event.delta for event in events[:-1]) == events[-1].text
    assert events[-1].text == f"{world.inference.says} {world.inference.says}"


async def test_whisper_1_takes_no_notice_of_stream(
    world: World, client: openai.AsyncOpenAI
) -> None:
    raw = await client.audio.transcriptions.with_raw_response.create(
        model="whisper-1", file=("speech.wav", SHORT), extra_body={"stream": "true"}
    )
    assert raw.parse().text == f"{world.inference.says} {world.inference.says}"


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"response_format": "diarized_json"}, "unsupported_value", "response_format"),
    ({"response_format": "xml"}, "unsupported_value", "response_format"),
    (
        {"response_format": "verbose_json", "timestamp_granularities": ["segment", "word"]},
        "unsupported_value",
        "timestamp_granularities[]",
    ),
    ({"timestamp_granularities": ["letter"]}, "invalid_request", "timestamp_granularities[]"),
    ({"include": ["logprobs"]}, "unsupported_value", "include[]"),
    (
        {"model": "gpt-4o-transcribe", "extra_body": {"stream": "true"}, "response_format": "srt"},
        "unsupported_value",
        "response_format",
    ),
    ({"language": "de"}, "language_not_available", "language"),
    ({"language": "x" * 50}, "invalid_request", "language"),
    ({"languages": ["en", "de"]}, "language_not_available", "languages[]"),
    ({"temperature": 1.5}, "invalid_request", "temperature"),
    ({"temperature": "warm"}, "invalid_request", "temperature"),
    ({"chunking_strategy": "never"}, "invalid_request", "chunking_strategy"),
    ({"extra_body": {"surprise": "1"}}, "invalid_request", "surprise"),
    ({"extra_body": {"priority": "11"}}, "invalid_request", "priority"),
    ({"extra_body": {"async": "maybe"}}, "invalid_request", "async"),
    ({"extra_body": {"callback_url": "http://127.0.0.1/"}}, "invalid_callback_url", "callback_url"),
    ({"model": ""}, "invalid_request", "model"),
    ({"known_speaker_names": ["Carton"]}, "invalid_request", "known_speaker_names[]"),
]


async def test_what_cannot_be_is_a_bad_request_that_names_the_field(
    world: World, client: openai.AsyncOpenAI, assert_problem: AssertProblem
) -> None:
    for options, code, field in BAD:
        with pytest.raises(openai.BadRequestError) as caught:
            await ask(client, **options)
        error = caught.value
        told = (error.code, error.param, error.type)
        assert told == (code, field, "invalid_request_error"), options
        assert field in error.message
        answer = error.response
        again = httpx.Response(400, headers=answer.headers, content=answer.content)
        assert_problem(again, 400, code, field)
    assert world.jobs() == []
    assert world.inference.heard_at == []


async def test_a_file_that_cannot_be_heard_is_a_bad_request(client: openai.AsyncOpenAI) -> None:
    for sound, code in (
        (b"", "empty_body"),
        (b"no sound at all" * 10, "unsupported_audio"),
        (SHORT[:1000], "undecodable_audio"),
    ):
        extras: list[dict[str, str]] = [{}, {"async": "true"}]
        for extra in extras:
            with pytest.raises(openai.BadRequestError) as caught:
                await ask(client, sound, extra_body=extra)
            assert (caught.value.code, caught.value.param) == (code, "file")


async def test_a_body_that_is_no_form_is_a_bad_request(
    world: World, assert_problem: AssertProblem
) -> None:
    caller = await world.caller("bob", "audio:write")
    contents: list[dict[str, Any]] = [{"content": SHORT}, {"json": {"file": "x"}}]
    for content in contents:
        answer = await caller.post(PATH, **content)
        assert_problem(answer, 400, "form_expected", "file")
    answer = await caller.post(PATH, data={"model": "whisper-1"}, files={"sound": SHORT[:200]})
    assert_problem(answer, 400, "file_missing", "file")


async def test_a_file_beyond_the_limit_is_too_large(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        await ask(client, b"RIFF" + bytes(3 << 20))
    assert (caught.value.status_code, caught.value.code) == (413, "body_too_large")


async def test_an_unknown_model_is_not_found(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        await ask(client, model="whisper-2")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert "moonshine-tiny-en" in caught.value.message


async def test_who_has_no_key_or_not_the_scope_is_told_so(
    world: World, client: openai.AsyncOpenAI
) -> None:
    with pytest.raises(openai.AuthenticationError) as caught:
        await ask(client.with_options(api_key="wrong"))
    assert (caught.value.code, caught.value.type) == ("invalid_token", "authentication_error")
    other = await world.caller("bob", "media:read")
    token = other.headers["authorization"].partition(" ")[2]
    with pytest.raises(openai.PermissionDeniedError) as denied:
        await ask(client.with_options(api_key=token))
    assert (denied.value.code, denied.value.type) == ("scope_missing", "permission_error")


async def test_a_full_converter_is_a_rate_limit_that_says_when_to_come_back(
    world: World, client: openai.AsyncOpenAI
) -> None:
    world.converter = FakeAudioConverter(max_concurrent=1, max_waiting=0)
    http = httpx.AsyncClient(transport=httpx.ASGITransport(world.new_app()))  # type: ignore[arg-type]
    client = a_client(http, KEY)
    async with http, world.converter._queue.turn(1):
        with pytest.raises(openai.RateLimitError) as caught:
            await ask(client)
    assert caught.value.type == "rate_limit_error"
    assert caught.value.code == "too_many_conversions"
    assert int(caught.value.response.headers["retry-after"]) >= 1


async def test_a_sick_triton_is_a_server_error_that_says_when_to_come_back(
    world: World, client: openai.AsyncOpenAI
) -> None:
    world.inference.sick = True
    with pytest.raises(openai.InternalServerError) as caught:
        await ask(client)
    assert (caught.value.code, caught.value.type) == ("triton_unavailable", "server_error")
    assert int(caught.value.response.headers["retry-after"]) > 0


async def test_a_short_recording_needs_neither_the_bucket_nor_the_queue_nor_the_database(
    world: World, client: openai.AsyncOpenAI
) -> None:
    world.objects.sick = world.stream.sick = world.store.sick = True
    assert world.inference.says in (await ask(client)).text


async def completes(world: World, task: Task) -> None:
    """What `audio.transcribe` does: the transcript in the bucket, then the final event."""
    transcript = Transcript(
        text="all of it",
        language="en",
        duration=61.0,
        segments=(
            Segment(
                start=3600, end=3661.5, text="all of it", tokens=(1,), avg_logprob=-0.5,
                no_speech_prob=0.01,
            ),
        ),
        model="moonshine-tiny-en",
        model_version="1",
    )  # fmt: skip
    key = transcript_key(task.task_id, ".json")
    world.objects.add(key, msgspec.json.encode(transcript), "application/json")
    result = {
        "transcription": "all of it", "language": "en", "duration": 61.0, "file_path": key,
        "subtitles": [], "model": "moonshine-tiny-en", "model_version": "1",
    }  # fmt: skip
    await world.tell(task, Status.PROCESSING, progress=0.5)
    await world.tell(task, Status.COMPLETED, result=result)


@pytest.mark.parametrize("form", ["json", "srt"])
async def test_a_long_recording_is_answered_when_its_task_has_ended(
    world: World, client: openai.AsyncOpenAI, form: str
) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(works(world, lambda task: completes(world, task)))
        answering = group.create_task(ask(client, LONG, response_format=form))
    said = answering.result()
    if form == "srt":
        assert said == "1\n01:00:00,000 --> 01:01:01,500\nall of it\n"
    else:
        assert said.text == "all of it"
    task = task_of(world)
    assert (task.workflow, task.priority, task.client_id) == ("audio-transcription", 5, "alice")
    assert world.objects.contents[incoming_key(task.task_id)] == LONG
    (job,) = world.jobs("jobs.audio.transcribe.normal")
    assert [step["function"] for step in job["steps"]] == ["audio.transcribe"]


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("undecodable_audio", openai.BadRequestError),
        ("internal_error", openai.InternalServerError),
        ("triton_unavailable", openai.InternalServerError),
    ],
)
async def test_a_task_that_fails_is_an_error_of_its_own_code(
    world: World, client: openai.AsyncOpenAI, code: str, kind: type[openai.APIStatusError]
) -> None:
    error = TaskError(code=code, message="so it was")

    async def fail() -> None:
        await works(world, lambda task: world.tell(task, Status.FAILED, error=error))

    failing = asyncio.create_task(fail())
    with pytest.raises(kind) as caught:
        await ask(client, LONG)
    await failing
    assert "so it was" in caught.value.message
    assert code in str(caught.value.body)


async def test_a_task_that_somebody_cancels_is_an_error(
    world: World, client: openai.AsyncOpenAI
) -> None:
    async def cancel() -> None:
        await works(world, lambda task: world.tell(task, Status.CANCELLED))

    cancelling = asyncio.create_task(cancel())
    with pytest.raises(openai.BadRequestError) as caught:
        await ask(client, LONG)
    await cancelling
    assert caught.value.code == "task_cancelled"


async def test_async_is_answered_with_a_task(world: World, assert_problem: AssertProblem) -> None:
    caller = await world.caller("bob", "audio:write")
    form = {"model": "whisper-1", "async": "true", "priority": "9"}
    form["callback_url"] = "https://example.com/done"
    key = {"Idempotency-Key": new_id()}
    answers = [
        await caller.post(PATH, data=form, files={"file": SHORT}, headers=key) for _ in range(2)
    ]
    for answer in answers:
        assert answer.status_code == 202, answer.text
        assert answer.json() == answers[0].json()
        assert answer.headers["location"] == answer.json()["status_url"]
    task = task_of(world)
    assert (task.task_id, task.priority) == (answers[0].json()["task_id"], 9)
    assert task.callback_url == "https://example.com/done"
    assert world.objects.contents[incoming_key(task.task_id)] == SHORT
    answer = await caller.post(PATH, data=form, files={"file": SHORT + b"\0"}, headers=key)
    assert_problem(answer, 409, "idempotency_key_reused", "Idempotency-Key")
    assert world.inference.heard_at == []


async def test_a_recording_longer_than_any_task_takes_is_refused_at_once(
    world: World, client: openai.AsyncOpenAI
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await ask(client, wav((101.0, False)))
    assert (caught.value.code, caught.value.param) == ("audio_too_long", "file")
    assert "100 s" in caught.value.message
    assert world.jobs() == []
    assert world.objects.contents == {}


async def test_a_full_queue_leaves_no_recording_behind(
    world: World, client: openai.AsyncOpenAI
) -> None:
    world.stream.max_messages["jobs"] = 0
    with pytest.raises(openai.InternalServerError) as caught:
        await ask(client, LONG)
    assert caught.value.code == "queue_full"
    assert world.objects.contents == {}


async def test_a_client_that_goes_away_stops_its_transcription(world: World) -> None:
    caller = await world.caller("bob", "audio:write")
    world.inference.open.clear()
    async with Leaver(world, PATH, caller.headers["authorization"], FORM, file=SHORT):
        async with asyncio.timeout(60):
            await world.inference.asked.wait()
        assert world.inference.hearing > 0
    assert world.inference.hearing == 0
    (figures,) = world.figures.all()
    assert (figures.transcriptions.active, figures.transcriptions.completed) == (0, 0)


async def test_a_client_that_goes_away_cancels_its_task(world: World) -> None:
    caller = await world.caller("bob", "audio:write")
    async with Leaver(world, PATH, caller.headers["authorization"], FORM, file=LONG):
        async with asyncio.timeout(60):
            async for _ in world.stream.follow("jobs.audio.transcribe.normal"):
                break
    task_id = task_of(world).task_id
    row = await world.store.get(task_id)
    assert row is not None
    assert row.status is Status.CANCELLED
    assert world.jobs(f"events.task.{task_id}")[-1]["status"] == "cancelled"
