"""POST /api/v1/audio:convert."""

from __future__ import annotations

import asyncio
import io
import wave
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import httpx
import numpy as np
import pytest
import pytest_asyncio

from functions._kit.fakes import FakeAudioConverter
from functions._kit.open_file import PIECE_BYTES
from functions._kit.ports import AUDIO_TYPES, AudioTarget, Sound
from functions.audio.convert import disposition

if TYPE_CHECKING:
    from tests.functions.conftest import World

AssertProblem = Callable[..., dict[str, Any]]
PATH = "/api/v1/audio:convert"
LIMIT = 20_000_000


def tone(duration_s: float = 0.5, hz: float = 440.0) -> bytes:
    """A WAV of 44.1 kHz in stereo with a sine."""
    moments = np.arange(round(duration_s * 44_100)) / 44_100
    samples = (np.sin(2 * np.pi * hz * moments) * 8000).astype("<i2")
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(44_100)
        file.writeframes(np.repeat(samples, 2).tobytes())
    return content.getvalue()


class Held(FakeAudioConverter):
    """Holds conversions up; tells of those that were cancelled."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.cancelled = asyncio.Event(), asyncio.Event()

    async def convert(
        self, source: Path, into: Path, target: AudioTarget, *, longest_s: float
    ) -> Sound:
        del source, into, target, longest_s
        self.asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled.set()
        raise AssertionError


@pytest_asyncio.fixture
async def world(make_world: Callable[..., World]) -> AsyncIterator[World]:
    """A world that takes sound; at its end nothing is left in its scratch folder."""
    world = make_world(max_upload_bytes=LIMIT, max_audio_s=60.0)
    yield world
    await world.in_flight.finish()
    assert left(world) == []


def left(world: World) -> list[str]:
    return [path.name for path in world.scratch.iterdir()]


@pytest_asyncio.fixture
async def carol(world: World) -> httpx.AsyncClient:
    """A caller who may send sound."""
    return await world.caller("carol", "audio:write")


@pytest.mark.parametrize("form", [True, False])
@pytest.mark.parametrize(
    ("wanted", "rate", "channels"),
    [({}, 16_000, 1), ({"target": "wav", "sample_rate": "48000", "channels": "2"}, 48_000, 2)],
)
async def test_sound_comes_back_as_the_wanted_wav(
    carol: httpx.AsyncClient, wanted: dict[str, str], rate: int, channels: int, *, form: bool
) -> None:
    content = tone()
    if form:
        answer = await carol.post(PATH, files={"file": ("a.opus", content)}, data=wanted)
    else:
        answer = await carol.post(PATH, content=content, params=wanted)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "audio/wav"
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert answer.headers["nereid-audio-duration"] == "0.500"
    assert answer.headers["nereid-cache"] == "miss"
    with wave.open(io.BytesIO(answer.content)) as sound:
        assert (sound.getframerate(), sound.getnchannels()) == (rate, channels)
        assert (sound.getsampwidth(), sound.getnframes()) == (2, rate // 2)


@pytest.mark.parametrize(
    ("target", "media_type", "first"),
    [
        ("wav", "audio/wav", (b"RIFF",)),
        ("flac", "audio/flac", (b"fLaC",)),
        ("mp3", "audio/mpeg", (b"ID3", b"\xff\xfb", b"\xff\xf3")),
    ],
)
async def test_each_target_is_what_it_says_and_is_read_again(
    carol: httpx.AsyncClient, target: str, media_type: str, first: tuple[bytes, ...]
) -> None:
    answer = await carol.post(PATH, content=tone(), params={"target": target})
    assert answer.headers["content-type"] == media_type
    assert answer.headers["content-disposition"] == f'attachment; filename="audio.{target}"'
    assert answer.content.startswith(first)
    again = await carol.post(PATH, content=answer.content)
    assert float(again.headers["nereid-audio-duration"]) == pytest.approx(0.5, abs=0.06)


async def test_the_same_bytes_and_target_are_converted_once(
    world: World, carol: httpx.AsyncClient
) -> None:
    content = tone()
    answers = await asyncio.gather(*(carol.post(PATH, content=content) for _ in range(10)))
    await world.in_flight.finish()
    answers.append(await carol.post(PATH, files={"file": content}))
    assert len({answer.content for answer in answers}) == 1
    assert [a.headers["nereid-cache"] for a in answers].count("miss") == 1
    assert {a.headers["nereid-audio-duration"] for a in answers} == {"0.500"}
    other = await carol.post(PATH, content=content, params={"sample_rate": 8000})
    assert other.headers["nereid-cache"] == "miss"
    assert world.converter.figures().completed == 2


async def test_fifty_at_once_are_all_answered_with_their_own(
    world: World, carol: httpx.AsyncClient
) -> None:
    lengths = [0.1 + n / 100 for n in range(50)]
    answers = await asyncio.gather(*(carol.post(PATH, content=tone(s)) for s in lengths))
    for length_s, answer in zip(lengths, answers, strict=True):
        assert answer.headers["nereid-audio-duration"] == f"{length_s:.3f}"
    assert world.converter.figures().completed == 50


async def test_a_long_answer_comes_in_pieces_and_whole(carol: httpx.AsyncClient) -> None:
    content = tone(6.0)
    answer = await carol.post(PATH, content=content, params={"sample_rate": 44_100, "channels": 2})
    assert len(answer.content) > 3 * PIECE_BYTES
    assert answer.content[-8000:] == content[-8000:]


@pytest.mark.parametrize("form", [True, False])
@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("sample_rate", "16", "unsupported_target"),
        ("sample_rate", "0", "unsupported_target"),
        ("sample_rate", "-1", "unsupported_target"),
        ("sample_rate", str(10**12), "unsupported_target"),
        ("sample_rate", str(10**40), None),
        ("sample_rate", "abc", "invalid_request"),
        ("sample_rate", "16000.5", "invalid_request"),
        ("sample_rate", "", "invalid_request"),
        ("channels", "0", "unsupported_target"),
        ("channels", "3", "unsupported_target"),
        ("channels", "two", "invalid_request"),
        ("target", "ogg", "invalid_request"),
        ("target", "WAV", "invalid_request"),
        ("target", "../x", "invalid_request"),
    ],
)
async def test_a_target_that_makes_no_sense_is_refused_with_its_field(
    world: World,
    carol: httpx.AsyncClient,
    assert_problem: AssertProblem,
    field: str,
    value: str,
    code: str | None,
    *,
    form: bool,
) -> None:
    if form:
        answer = await carol.post(PATH, files={"file": tone()}, data={field: value})
    else:
        answer = await carol.post(PATH, content=tone(), params={field: value})
    body = assert_problem(answer, 422, code or answer.json()["code"], field)
    assert field in body["detail"]
    assert world.converter.figures().failed == 0
    assert not world.objects.contents


async def test_a_rate_that_mp3_does_not_know_is_refused(
    carol: httpx.AsyncClient, assert_problem: AssertProblem
) -> None:
    params = {"target": "mp3", "sample_rate": "96000"}
    answer = await carol.post(PATH, content=tone(), params=params)
    assert_problem(answer, 422, "unsupported_target", "sample_rate")


async def test_words_of_the_form_come_before_those_of_the_query(carol: httpx.AsyncClient) -> None:
    answer = await carol.post(
        PATH,
        files={"file": tone()},
        data={"target": "flac"},
        params={"target": "mp3", "sample_rate": 8000},
    )
    assert answer.headers["content-type"] == "audio/flac"
    assert int.from_bytes(answer.content[18:21]) >> 4 == 8000


async def test_what_is_longer_than_the_limit_is_refused(
    make_world: Callable[..., World], assert_problem: AssertProblem
) -> None:
    world = make_world(max_upload_bytes=LIMIT, max_audio_s=1.0)
    dave = await world.caller("dave", "audio:write")
    assert (await dave.post(PATH, content=tone(1.0))).status_code == 200
    answer = await dave.post(PATH, content=tone(1.1))
    assert_problem(answer, 422, "audio_too_long", "file")


async def test_what_would_become_too_large_is_refused_with_the_way_out(
    make_world: Callable[..., World], assert_problem: AssertProblem
) -> None:
    world = make_world(max_upload_bytes=200_000, max_audio_s=60.0)
    erin = await world.caller("erin", "audio:write")
    params = {"sample_rate": 192_000, "channels": 2}
    answer = await erin.post(PATH, content=tone(1.0), params=params)
    body = assert_problem(answer, 422, "conversion_too_large", "sample_rate")
    assert "192000" in body["detail"]
    assert (await erin.post(PATH, content=tone(1.0))).status_code == 200


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"", 422, "empty_body"),
        (b"\x89PNG\r\n\x1a\n" + bytes(200), 415, "unsupported_audio"),
        (b"<html>" * 50, 415, "unsupported_audio"),
        (tone()[:60], 422, "undecodable_audio"),
        (bytes(LIMIT + 1), 413, "body_too_large"),
    ],
    ids=["empty", "picture", "page", "cut", "large"],
)
async def test_bad_input_gets_a_clear_answer(
    world: World,
    carol: httpx.AsyncClient,
    assert_problem: AssertProblem,
    content: bytes,
    status: int,
    code: str,
) -> None:
    assert_problem(await carol.post(PATH, content=content), status, code, "file")
    assert not world.objects.contents


async def test_a_bucket_that_is_away_is_not_missed(world: World, carol: httpx.AsyncClient) -> None:
    world.objects.sick = True
    for _ in range(2):
        answer = await carol.post(PATH, content=tone())
        assert (answer.status_code, answer.headers["nereid-cache"]) == (200, "miss")
        await world.in_flight.finish()


async def test_too_many_are_told_to_come_back(
    make_world: Callable[..., World], assert_problem: AssertProblem
) -> None:
    world = make_world(max_upload_bytes=LIMIT)
    world.converter = FakeAudioConverter(max_concurrent=1, max_waiting=2)
    app = world.new_app()
    await world.caller("frank", "audio:write")
    client = await world.clients.find("frank")
    assert client is not None
    frank = await world.http(app, Authorization=f"Bearer {world.tokens.issue(client)}")
    sounds = [tone(5 + n / 10) for n in range(12)]
    answers = await asyncio.gather(*(frank.post(PATH, content=sound) for sound in sounds))
    refused = [answer for answer in answers if answer.status_code != 200]
    assert 1 <= len(refused) < 12
    for answer in refused:
        assert_problem(answer, 429, "too_many_conversions")
        assert int(answer.headers["retry-after"]) >= 1
    assert world.converter.figures().completed == 12 - len(refused)
    await world.in_flight.finish()
    assert left(world) == []


class Asgi:
    """A caller who speaks ASGI itself, and can hang up where httpx cannot."""

    def __init__(self, world: World, token: str, content: bytes) -> None:
        self.sent: list[dict[str, Any]] = []
        self.gone = asyncio.Event()
        self.leaves_at_first_piece = False
        self._body = [{"type": "http.request", "body": content, "more_body": False}]
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST",
            "path": PATH, "raw_path": PATH.encode(), "query_string": b"", "scheme": "http",
            "headers": [(b"authorization", token.encode())], "server": ("nereid.test", 80),
            "client": ("127.0.0.1", 1), "root_path": "", "extensions": {},
        }  # fmt: skip
        app: Any = world.app
        self.answering = asyncio.create_task(app(scope, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        if self._body:
            return self._body.pop()
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)
        if message.get("body") and self.leaves_at_first_piece:
            self.gone.set()
            await asyncio.Event().wait()  # the buffer stays full for ever


async def test_a_caller_who_goes_away_ends_the_conversion(
    world: World, make_world: Callable[..., World]
) -> None:
    world.converter = Held()
    world.app = world.new_app()
    token = (await world.caller("grace", "audio:write")).headers["authorization"]
    caller = Asgi(world, token, tone())
    await world.converter.asked.wait()
    assert left(world) != []
    caller.gone.set()
    await world.converter.cancelled.wait()
    await caller.answering
    assert caller.sent[0]["status"] >= 400


async def test_a_caller_who_goes_away_amid_the_answer_leaves_nothing(
    world: World, carol: httpx.AsyncClient
) -> None:
    caller = Asgi(world, carol.headers["authorization"], tone(60.0))
    caller.leaves_at_first_piece = True
    async with asyncio.timeout(60):
        await caller.answering
    assert caller.sent[0]["status"] == 200
    sent_bytes = sum(len(message.get("body", b"")) for message in caller.sent)
    assert sent_bytes == PIECE_BYTES, "it stayed in memory"
    assert open_files(world.scratch) == []


def open_files(folder: Path) -> list[str]:
    """Files below `folder` that this process has open, removed ones too."""
    found = []
    for link in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # it was that of the listing itself
            target = str(link.readlink())
            if target.startswith(str(folder)):
                found.append(target)
    return found


@pytest.mark.parametrize(
    ("name", "plain", "letters"),
    [
        ("talk.opus", "talk.wav", None),
        ("my talk.2026.opus", "my talk.2026.wav", None),
        ("noending", "noending.wav", None),
        (".opus", "opus.wav", None),
        ("", "audio.wav", None),
        (None, "audio.wav", None),
        ("...", "audio.wav", None),
        ("../../etc/passwd", "passwd.wav", None),
        ("C:\\voices\\talk.m4a", "talk.wav", None),
        ('a";evil=b.ogg', "a__evil=b.wav", 'a";evil=b.wav'),
        ("a\r\nSet-Cookie: x.ogg", "aSet-Cookie: x.wav", None),
        ("Übung 写真.ogg", "_bung __.wav", "Übung 写真.wav"),
        ("100%.ogg", "100_.wav", "100%.wav"),
        ("x" * 500 + ".ogg", "x" * 100 + ".wav", None),
        ("\ud800.ogg", "_.wav", "?.wav"),
    ],
)
def test_the_answer_has_the_uploads_name(name: str | None, plain: str, letters: str | None) -> None:
    header = disposition(name, "wav")
    header.encode("latin-1")
    first, _, second = header.partition("; filename*=UTF-8''")
    assert first == f'attachment; filename="{plain}"'
    assert unquote(second) == (letters or "")


async def test_a_form_with_a_strange_name_is_answered(carol: httpx.AsyncClient) -> None:
    answer = await carol.post(PATH, files={"file": ("Übung 写真.opus", tone())})
    assert answer.status_code == 200
    assert "filename*=UTF-8''%C3%9Cbung%20" in answer.headers["content-disposition"]


async def test_what_the_description_says_is_so(described: httpx.AsyncClient) -> None:
    document = (await described.get("/schema/openapi.json")).json()
    operation = document["paths"][PATH]["post"]
    assert set(operation["requestBody"]["content"]) == {
        "multipart/form-data",
        "application/octet-stream",
    }
    named = {p["name"]: p["schema"] for p in operation["parameters"]}
    assert named["sample_rate"]["default"] == 16_000
    assert set(named) == {"target", "sample_rate", "channels"}
    answer = operation["responses"]["200"]
    assert "Nereid-Audio-Duration" in answer["headers"]
    assert set(answer["content"]) == set(AUDIO_TYPES.values())
    for content in answer["content"].values():
        assert content["schema"] == {"type": "string", "format": "binary"}
