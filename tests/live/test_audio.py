"""Recordings over HTTP: words, tasks, conversions, and their figures, on the whole system."""

from __future__ import annotations

import asyncio
import io
import json
import wave
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import openai
import psutil
import pytest

from tests.live.conftest import KEY, Api, Event, Nereid, client_of
from tests.live.language_server import language_server
from tests.live.sounds import FIRST_WORDS, VOICE, VOICE_S, plain, voice

TRANSLATE = "/api/v1/translate_audio"


async def translated(
    http: httpx.AsyncClient, sound: bytes, status: int = 200, **fields: str
) -> dict[str, Any]:
    answer = await http.post(TRANSLATE, files={"audio_file": ("voice.opus", sound)}, data=fields)
    assert answer.status_code == status, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def figures(http: httpx.AsyncClient) -> dict[str, Any]:
    found: dict[str, Any] = (await http.get("/api/v1/performance")).json()
    return found


async def until(http: httpx.AsyncClient, so: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The figures once they are so; those of other processes are a second old at most."""
    async with asyncio.timeout(60):
        while not so(found := await figures(http)):
            await asyncio.sleep(0.05)
    return found


def scratch_of(nereid: Nereid) -> list[str]:
    return sorted(str(path) for path in (nereid.data / "scratch").rglob("*") if path.is_file())


async def test_a_voice_message_becomes_its_words(api: Api) -> None:
    answer = await translated(api.http, VOICE.read_bytes())
    assert plain(answer["transcription"]).startswith(FIRST_WORDS)
    assert answer.keys() == {
        "status", "transcription", "duration", "language", "model", "model_version",
        "processing_time", "audio",
    }  # fmt: skip
    assert (answer["status"], answer["language"]) == ("success", "en")
    assert answer["duration"] == pytest.approx(VOICE_S, abs=0.1)
    with wave.open(io.BytesIO(await api.download(answer["audio"]["url"]))) as heard:
        assert (heard.getframerate(), heard.getnchannels(), heard.getsampwidth()) == (16_000, 1, 2)
        assert heard.getnframes() / 16_000 == pytest.approx(answer["duration"], abs=0.01)


@pytest.mark.parametrize(
    ("container", "codec"),
    [("webm", "libopus"), ("mp3", "libmp3lame"), ("mp4", "aac"), ("flac", "flac"),
     ("wav", "pcm_s16le"), ("matroska", "aac")],
)  # fmt: skip
async def test_every_container_says_the_same(api: Api, container: str, codec: str) -> None:
    answer = await translated(api.http, voice(8, container=container, codec=codec))
    assert plain(answer["transcription"]).startswith(FIRST_WORDS)


async def test_a_prompt_without_a_language_model_says_why_and_loses_no_word(api: Api) -> None:
    answer = await translated(api.http, VOICE.read_bytes(), user_prompt="Translate to Korean")
    assert plain(answer["transcription"]).startswith(FIRST_WORDS)
    assert "translation" not in answer
    assert answer["translation_error"]["code"] == "language_model_not_set"
    assert "NEREID_LLM_URL" in answer["translation_error"]["message"]


async def test_openais_own_client_works_unchanged(system: Nereid) -> None:
    async with openai.AsyncOpenAI(base_url=f"{system.url}/v1", api_key=KEY.format("me")) as client:

        async def ask(**options: Any) -> Any:
            return await client.audio.transcriptions.create(
                file=("voice.opus", VOICE.read_bytes()), model="whisper-1", **options
            )

        said = (await ask()).text
        assert plain(said).startswith(FIRST_WORDS)
        assert plain(await ask(response_format="text")) == plain(said)
        assert (await ask(response_format="srt")).startswith("1\n00:00:0")
        assert (await ask(response_format="vtt")).startswith("WEBVTT\n\n00:00:0")
        verbose = await ask(response_format="verbose_json")
        assert verbose.text == said
        assert verbose.language == "english"
        assert float(verbose.duration) == pytest.approx(VOICE_S, abs=0.1)
        assert " ".join(segment.text for segment in verbose.segments) == said
        ends = [time for segment in verbose.segments for time in (segment.start, segment.end)]
        assert ends == sorted(ends)
        assert all(segment.avg_logprob < 0 for segment in verbose.segments)
        with pytest.raises(openai.NotFoundError, match="model"):
            await client.audio.transcriptions.create(file=b"x", model="no-such-model")
    async with openai.AsyncOpenAI(base_url=f"{system.url}/v1", api_key="wrong") as stranger:
        with pytest.raises(openai.AuthenticationError):
            await stranger.audio.transcriptions.create(file=b"x", model="whisper-1")


async def test_a_long_recording_is_a_task_with_transcript_and_subtitles(api: Api) -> None:
    accepted = await translated(api.http, voice(75), status=202)
    assert accepted["status"] == "queued"
    seen = [event.data["progress"] async for event in api.events(accepted["task_id"])]
    assert seen == sorted(seen)
    assert seen[-1] == 1
    row = await api.finished(accepted["task_id"])
    assert (row["status"], row["workflow"]) == ("completed", "audio-transcription"), row["error"]
    result = row["result"]
    assert plain(result["transcription"]).count("worst of times") == 6
    assert result["duration"] == pytest.approx(75, abs=0.1)
    transcript = json.loads(await api.download(result["url"]))
    assert transcript["text"] == result["transcription"]
    assert transcript["segments"][-1]["end"] <= 75.2
    subtitles = [(await api.download(file["url"])).decode() for file in result["subtitles"]]
    assert [text.split("\n", 1)[0] for text in subtitles] == ["1", "WEBVTT"]
    sentences = result["transcription"].count(". ") + 1
    assert all(text.count("-->") == pytest.approx(sentences, abs=1) for text in subtitles)


async def test_a_short_recording_is_a_task_on_demand(api: Api) -> None:
    accepted = await translated(api.http, VOICE.read_bytes(), status=202, **{"async": "true"})
    row = await api.finished(accepted["task_id"])
    assert plain(row["result"]["transcription"]).startswith(FIRST_WORDS)


async def test_openais_client_gets_the_words_of_a_long_recording_when_they_are_there(
    system: Nereid,
) -> None:
    async with openai.AsyncOpenAI(base_url=f"{system.url}/v1", api_key=KEY.format("me")) as client:
        verbose = await client.audio.transcriptions.create(
            file=("long.opus", voice(63, start_s=0.5)),
            model="whisper-1",
            response_format="verbose_json",
        )
    assert float(verbose.duration) == pytest.approx(63, abs=0.1)
    assert plain(verbose.text).count("worst of times") == 5


async def test_a_client_that_goes_away_stops_its_work_and_leaves_no_file(
    system: Nereid, api: Api
) -> None:
    before = await until(api.http, lambda f: f["transcriptions"]["active"] == 0)

    async def leave(number: int) -> None:
        sound = voice(55, start_s=number / 10)
        async with client_of(system, "me") as http:
            sending = asyncio.create_task(translated(http, sound))
            await until(api.http, lambda f: f["transcriptions"]["active"] > 0)
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending

    await asyncio.gather(*(leave(number) for number in range(3)))
    after = await until(api.http, lambda f: f["transcriptions"]["active"] == 0)
    assert after["transcriptions"]["total"] < before["transcriptions"]["total"] + 3
    async with asyncio.timeout(60):
        while left := scratch_of(system):
            await asyncio.sleep(0.05)
    assert left == []


async def test_the_figures_are_what_the_caller_counts(system: Nereid, api: Api) -> None:
    idle = await until(api.http, lambda f: f["active_conversions"] == f["queue_length"] == 0)
    sounds = [voice(3, start_s=0.31 + number / 7) for number in range(20)]

    async def convert(sound: bytes) -> httpx.Response:
        return await api.http.post("/api/v1/audio:convert?target=flac", content=sound)

    answers = await asyncio.gather(*(convert(sound) for sound in [*sounds, b"no sound"]))
    assert sorted(answer.status_code for answer in answers) == [200] * 20 + [415]
    again = await asyncio.gather(*(convert(sound) for sound in sounds))
    assert {answer.headers["nereid-cache"] for answer in again} == {"hit"}
    assert [a.content for a in again] == [a.content for a in answers[:20]]
    found = await figures(api.http)
    assert found["total_conversions"] == idle["total_conversions"] + 20
    assert found["failed_conversions"] == idle["failed_conversions"] + 1
    assert found["active_conversions"] == found["queue_length"] == 0
    assert 0 < found["average_processing_time"] < 60
    status = (await api.http.get("/api/v1/concurrent-status")).json()
    assert status.keys() == {
        "active_conversions", "max_concurrent", "utilization_percent", "total_conversions",
        "average_processing_time", "queue_length", "cpu_percent", "memory_usage",
    }  # fmt: skip
    # two functions run in two processes, each with as many converters as there are cores
    assert status["max_concurrent"] == 2 * (psutil.cpu_count() or 0)
    assert status["memory_usage"] > 50 << 20
    assert sorted(p["role"] for p in found["processes"]) == ["serve", "work"]
    assert scratch_of(system) == []


@pytest.mark.parametrize(
    ("capability", "model"),
    [("transcribe", "moonshine-tiny-en"), ("detect_speech", "silero-vad")],
)
async def test_the_models_pass_the_check_that_a_switch_demands(
    system: Nereid, capability: str, model: str
) -> None:
    switched = await asyncio.to_thread(system.command, "models", "switch", capability, model)
    assert switched.stdout == f"{capability} is served by {model} version 1\n", switched.stderr
    refused = await asyncio.to_thread(system.command, "models", "switch", "detect", model)
    assert f"it is a model for {capability}, not detect" in refused.stderr


async def test_many_users_at_once_each_get_their_own_words(api: Api) -> None:
    """Shifted starts give different texts; the same recording alone gives the same text."""
    sounds = [voice(6, start_s=shift) for shift in (0.0, 3.3, 5.9, 8.1)]
    alone = [(await translated(api.http, sound))["transcription"] for sound in sounds]
    assert len(set(alone)) == len(sounds)
    together = await asyncio.gather(*(translated(api.http, sound) for sound in sounds * 4))
    assert [answer["transcription"] for answer in together] == alone * 4


def silent_hours(hours: int) -> bytes:
    """A small file that says it lasts for hours: FLAC of nothing."""
    header = io.BytesIO()
    with wave.open(header, "wb") as file:
        file.setparams((1, 1, 8000, 0, "NONE", ""))
    wav = bytearray(header.getvalue())
    size = hours * 3600 * 8000
    wav[4:8] = (size + 36).to_bytes(4, "little")
    wav[40:44] = size.to_bytes(4, "little")
    return bytes(wav)


@pytest.mark.parametrize(
    ("content", "status", "codes"),
    [
        (b"", 422, {"empty_body"}),
        (b"\x89PNG\r\n\x1a\n" + bytes(1000), 415, {"unsupported_audio"}),
        (VOICE.read_bytes()[:200], 422, {"undecodable_audio", "no_sound"}),
        (b"RIFF" + bytes(2000), 415, {"unsupported_audio"}),
        (silent_hours(24), 422, {"audio_too_long", "undecodable_audio"}),
    ],
    ids=["nothing", "a picture", "a header alone", "zeros", "24 hours"],
)
async def test_what_is_no_sound_is_refused_with_its_reason(
    api: Api, content: bytes, status: int, codes: set[str]
) -> None:
    sent = {"files": {"audio_file": ("voice.opus", content)}}
    answer = await api.http.post(TRANSLATE, **sent)  # type: ignore[arg-type]
    assert answer.status_code == status, answer.text
    problem = answer.json()
    assert problem["code"] in codes
    assert problem["field"] == "audio_file"


@pytest.fixture
async def with_language() -> AsyncIterator[Any]:
    async with language_server() as server:
        yield server


async def test_prompts_quotas_and_overload(
    own_system: Callable[..., Nereid], with_language: Any
) -> None:
    """A system of its own: a language model with two requests a day, one converter, no patience."""
    nereid = own_system(
        llm_url=with_language.url,
        llm_model="little",
        llm_key="a-key-nobody-may-see",
        llm_requests_per_day=2,
        audio_converter_workers=1,
        max_waiting_audio_conversions=2,
        allow_private_callbacks=True,
    )
    async with client_of(nereid, "me") as http:
        api = Api(http)
        said = await translated(http, VOICE.read_bytes(), user_prompt="Shout")
        assert said["translation"] == said["transcription"].upper()
        assert with_language.requests[0].headers["Authorization"] == "Bearer a-key-nobody-may-see"
        accepted = await translated(http, voice(61), status=202, user_prompt="Shout")
        row = await api.finished(accepted["task_id"])
        assert row["result"]["translation"] == row["result"]["transcription"].upper()
        spent = await translated(http, VOICE.read_bytes(), user_prompt="Shout")
        assert spent["translation_error"]["code"] == "language_model_quota_spent"
        assert spent["transcription"] == said["transcription"]
        usage = (await figures(http))["language_model"]
        assert (usage["requests_today"], usage["requests_per_day"]) == (2, 2)

        sounds = [voice(60, start_s=number / 9) for number in range(12)]
        answers = await asyncio.gather(
            *(http.post("/api/v1/audio:convert", content=sound) for sound in sounds)
        )
        refused = [answer for answer in answers if answer.status_code != 200]
        assert 0 < len(refused) < 12
        for answer in refused:
            assert answer.status_code == 429
            assert answer.json()["code"] == "too_many_conversions"
            assert int(answer.headers["retry-after"]) >= 1

        def speaking(event: Event) -> bool:
            return event.name == "processing" and event.data["progress"] > 0.1

        long = await translated(http, voice(150), status=202)
        await api.first(long["task_id"], speaking)
        nereid.part("triton").kill()
        row = await api.finished(long["task_id"])
        assert (row["status"], row["attempts"]) == ("completed", 1), row["error"]
        assert plain(row["result"]["transcription"]).count("worst of times") >= 11
    nereid.stop()
    assert "a-key-nobody-may-see" not in nereid.said()
    assert scratch_of(nereid) == []
