"""What `LanguageModel` promises: one suite over the fake and the real one before a server."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any, Protocol

import msgspec
import pytest
import pytest_asyncio

from functions._kit.errors import Unavailable
from functions._kit.fakes import FakeKeyValue, FakeLanguageModel
from functions._kit.messages import now
from functions._kit.ports import LanguageModel, LanguageModelError
from gateway.adapters import language
from gateway.adapters.chat import chat_url, checked_key, retry_after_s
from gateway.adapters.language import PATIENCE_S, TRIES, open_language_model
from gateway.settings import SettingsError
from tests.live.language_server import LanguageServer, completion, language_server

NOON = datetime(2026, 5, 4, 12, 0, 10, tzinfo=UTC)
KEY = "sk-a-secret/of+the=tests"
LETTERS_OF_AN_ERROR = 400

Open = Callable[..., Any]


class Clock:
    """A time that passes at once when somebody waits for it."""

    def __init__(self) -> None:
        self.now = NOON
        self.waits: list[float] = []

    def __call__(self) -> datetime:
        return self.now

    async def wait(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += timedelta(seconds=seconds)
        await asyncio.sleep(0)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def values() -> FakeKeyValue:
    return FakeKeyValue()


@pytest_asyncio.fixture
async def server() -> AsyncIterator[LanguageServer]:
    async with language_server() as running:
        yield running


@pytest_asyncio.fixture
async def real(
    server: LanguageServer, values: FakeKeyValue, clock: Clock
) -> AsyncIterator[Callable[..., Any]]:
    """Opens the adapter before the test's server, as many times as there are processes."""
    async with AsyncExitStack() as stack:

        async def opened(**settings: Any) -> LanguageModel:
            given: dict[str, Any] = {
                "url": server.url, "key": KEY, "model": "test-model", "at_once": 8,
                "per_minute": None, "per_day": None, "timeout_s": 20.0, "values": values,
                "clock": clock, "wait": clock.wait, "jitter": lambda: 0.0,
            }  # fmt: skip
            return await stack.enter_async_context(open_language_model(**given | settings))

        yield opened


# what both promise


class Subject(Protocol):
    """A language model, and the hands to make it fail."""

    model: LanguageModel

    def refuse(self) -> None: ...

    def fail(self) -> None: ...

    def sicken(self) -> None: ...

    def hold(self) -> None: ...

    async def until_held(self, count: int) -> None: ...

    def asked(self) -> list[tuple[str, str]]: ...


class FakeSubject:
    def __init__(self, fake: FakeLanguageModel) -> None:
        self.model: LanguageModel = fake
        self.fake = fake

    def refuse(self) -> None:
        self.fake.failures.append(LanguageModelError("language_model_refused", "no"))

    def fail(self) -> None:
        error = LanguageModelError("language_model_failed", "nonsense", again=True)
        self.fake.failures.append(error)

    def sicken(self) -> None:
        self.fake.sick = True

    def hold(self) -> None:
        self.fake.open.clear()

    async def until_held(self, count: int) -> None:
        async with asyncio.timeout(60):
            while self.fake.waiting != count:
                await asyncio.sleep(0)

    def asked(self) -> list[tuple[str, str]]:
        return self.fake.asked


class RealSubject:
    def __init__(self, model: LanguageModel, server: LanguageServer, values: FakeKeyValue) -> None:
        self.model = model
        self.server = server
        self.values = values

    def refuse(self) -> None:
        self.server.refuse(400, "no")

    def fail(self) -> None:
        self.server.say(b"nonsense")

    def sicken(self) -> None:
        self.values.sick = True

    def hold(self) -> None:
        self.server.open.clear()

    async def until_held(self, count: int) -> None:
        await self.server.until_in_hand(count)

    def asked(self) -> list[tuple[str, str]]:
        return [(request.instructions, request.text) for request in self.server.requests]


@pytest.fixture(params=["fake", "real"])
def subject(
    request: pytest.FixtureRequest, server: LanguageServer, values: FakeKeyValue, real: Open
) -> Open:
    """Makes a subject; `model` None stands for one that is not set."""

    async def made(*, model: str | None = "test-model", per_day: int | None = None) -> Subject:
        if request.param == "fake":
            return FakeSubject(FakeLanguageModel(model=model, per_day=per_day))
        settings: dict[str, Any] = {"model": model, "per_day": per_day, "clock": now}
        opened = await real(**settings, url=None if model is None else server.url)
        return RealSubject(opened, server, values)

    return made


async def test_the_answer_is_to_the_text_under_the_instructions(subject: Open) -> None:
    it = await subject()
    text = 'Grüße, "Welt" \\ 写真\n\0 📷'
    assert await it.model.complete("Say it loud.", text) == text.upper()
    assert it.asked() == [("Say it loud.", text)]


async def test_without_a_model_nothing_is_asked_and_the_error_says_what_to_set(
    subject: Open,
) -> None:
    it = await subject(model=None, per_day=5)
    with pytest.raises(LanguageModelError, match="NEREID_LLM_URL") as caught:
        await it.model.complete("a", "b")
    assert (caught.value.code, caught.value.again) == ("language_model_not_set", False)
    assert it.asked() == []
    usage = await it.model.usage()
    assert (usage.model, usage.requests_today, usage.requests_per_day) == (None, 0, 5)


async def test_a_spent_quota_is_told_and_nothing_is_asked(subject: Open) -> None:
    it = await subject(per_day=2)
    for _ in range(2):
        await it.model.complete("a", "b")
    with pytest.raises(LanguageModelError) as caught:
        await it.model.complete("a", "b")
    assert (caught.value.code, caught.value.again) == ("language_model_quota_spent", False)
    assert len(it.asked()) == 2


async def test_a_refusal_is_final(subject: Open) -> None:
    it = await subject()
    it.refuse()
    with pytest.raises(LanguageModelError) as caught:
        await it.model.complete("a", "b")
    assert (caught.value.code, caught.value.again) == ("language_model_refused", False)
    assert await it.model.complete("a", "b") == "B"


async def test_a_failure_may_be_mended_by_a_later_try(subject: Open) -> None:
    it = await subject()
    it.fail()
    with pytest.raises(LanguageModelError) as caught:
        await it.model.complete("a", "b")
    assert (caught.value.code, caught.value.again) == ("language_model_failed", True)
    assert await it.model.complete("a", "b") == "B"


async def test_usage_tells_the_day(subject: Open) -> None:
    it = await subject(per_day=9)
    for _ in range(3):
        await it.model.complete("a", "b")
    it.refuse()
    with pytest.raises(LanguageModelError):
        await it.model.complete("a", "b")
    usage = await it.model.usage()
    assert usage.model is not None
    assert (usage.requests_today, usage.requests_per_day) == (4, 9)
    assert timedelta(0) < usage.resets_at - now() <= timedelta(days=1)
    assert (usage.resets_at.hour, usage.resets_at.minute, usage.resets_at.tzinfo) == (0, 0, UTC)


async def test_turns_tell_the_limit_and_what_is_out(subject: Open) -> None:
    it = await subject()
    before = it.model.turns()
    assert before.at_once > 0
    assert (before.active, before.waiting) == (0, 0)
    await it.model.complete("a", "b")
    assert it.model.turns() == before


async def test_where_requests_cannot_be_counted_none_goes_out(subject: Open) -> None:
    it = await subject()
    it.sicken()
    with pytest.raises(LanguageModelError) as caught:
        await it.model.complete("a", "b")
    assert (caught.value.code, caught.value.again) == ("language_model_busy", True)
    with pytest.raises(Unavailable):
        await it.model.usage()
    assert it.asked() == []


async def test_a_cancelled_question_ends_at_the_service_too(subject: Open) -> None:
    it = await subject()
    it.hold()
    asking = [asyncio.create_task(it.model.complete("a", str(n))) for n in range(3)]
    await it.until_held(3)
    asking[0].cancel()
    await it.until_held(2)
    for task in asking[1:]:
        task.cancel()
    await asyncio.gather(*asking, return_exceptions=True)
    assert all(task.cancelled() for task in asking)
    await it.until_held(0)
    assert (await it.model.usage()).requests_today == 3


# what goes over the wire


@pytest.mark.parametrize("ending", ["", "/", "/v1", "/v1/", "/v1/chat/completions"])
async def test_the_address_may_have_v1_and_a_slash_or_not(
    real: Open, server: LanguageServer, ending: str
) -> None:
    model = await real(url=server.url.removesuffix("/v1") + ending)
    assert await model.complete("a", "b") == "B"
    assert server.requests[0].path == "/v1/chat/completions"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://llm.test/openai/v1", "https://llm.test/openai/v1/chat/completions"),
        ("https://llm.test/v1beta/openai/", "https://llm.test/v1beta/openai/chat/completions"),
        (" http://llm.test:8080 ", "http://llm.test:8080/v1/chat/completions"),
        ("http://llm.test/v1?api-version=3", "http://llm.test/v1/chat/completions?api-version=3"),
    ],
)
def test_another_path_is_taken_as_it_is(url: str, expected: str) -> None:
    assert str(chat_url(url)) == expected


@pytest.mark.parametrize("url", [" ", "llm.test:80", "ftp://llm.test", "http://", "http://a:b/v1"])
async def test_an_address_that_is_none_is_refused_at_the_start(real: Open, url: str) -> None:
    with pytest.raises(SettingsError, match="NEREID_LLM_URL must be an address"):
        await real(url=url)


async def test_an_empty_address_is_none(real: Open) -> None:
    await _assert_fails(await real(url="", model=None), "language_model_not_set", "NEREID_LLM_URL")


async def test_an_address_without_a_model_is_refused_at_the_start(real: Open) -> None:
    with pytest.raises(SettingsError, match="NEREID_LLM_MODEL must name a model"):
        await real(model=None)


@pytest.mark.parametrize("key", ["two words", "line\nbreak", "schlüssel"])
async def test_a_key_that_no_header_carries_is_refused_without_being_shown(
    real: Open, key: str
) -> None:
    with pytest.raises(SettingsError, match="NEREID_LLM_KEY must be") as caught:
        await real(key=key)
    assert key not in str(caught.value)


async def test_a_request_is_what_openais_api_takes(real: Open, server: LanguageServer) -> None:
    await (await real(key=f" {KEY}\n")).complete("Translate.", "Bonjour")
    (request,) = server.requests
    assert request.headers["Authorization"] == f"Bearer {KEY}"
    assert request.headers["Content-Type"] == "application/json"
    assert request.body == {
        "model": "test-model",
        "temperature": 0.0,
        "messages": [
            {"role": "system", "content": "Translate."},
            {"role": "user", "content": "Bonjour"},
        ],
    }


@pytest.mark.parametrize("key", [None, "", " "])
async def test_without_a_key_none_is_sent(
    real: Open, server: LanguageServer, key: str | None
) -> None:
    await (await real(key=key)).complete("a", "b")
    assert "Authorization" not in server.requests[0].headers
    assert checked_key(key) is None


async def test_a_model_that_has_its_own_temperature_is_asked_without(
    real: Open, server: LanguageServer
) -> None:
    server.refuse(400, "Unsupported value: 0", param="temperature", code="unsupported_value")
    model = await real()
    for _ in range(2):
        assert await model.complete("a", "b") == "B"
    assert ["temperature" in request.body for request in server.requests] == [True, False, False]
    server.refuse(400, "Unsupported again", param="temperature")
    await _assert_fails(model, "language_model_refused", "Unsupported again")


# what comes back


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>welcome</html>",
        b"{}",
        b'{"choices": []}',
        b'{"choices": [{"message": {"content": 7}}]}',
        b'{"choices": [{"message": {"content": "\xff"}}]}',
        b"[" * 100_000,
        msgspec.json.encode(completion(None)),
        msgspec.json.encode(completion(" \n")),
    ],
)
async def test_nonsense_is_a_failure_and_is_not_asked_for_twice(
    real: Open, server: LanguageServer, body: bytes
) -> None:
    server.say(body)
    await _assert_fails(await real(), "language_model_failed", "the language model's service sent")
    assert len(server.requests) == 1


async def test_an_endless_answer_is_not_read_to_its_end(
    real: Open, server: LanguageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(language, "MAX_ANSWER_BYTES", 1000)
    server.reply = lambda _, text: text * 1000
    await _assert_fails(await real(), "language_model_failed", "more than 1000 bytes")


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        ({"finish_reason": "length"}, "stopped in the middle of the answer"),
        ({"finish_reason": "content_filter"}, "its filter has stopped the answer"),
        ({"message": {"content": None, "refusal": "I can't."}}, "does not answer this: I can't."),
    ],
)
async def test_an_answer_that_is_not_whole_is_none(
    real: Open, server: LanguageServer, facts: dict[str, Any], told: str
) -> None:
    server.say(msgspec.json.encode(completion("Half of i", **facts)))
    await _assert_fails(await real(), "language_model_refused", told)


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (400, b'{"error": {"message": "too long"}}', "refused the request (400): too long"),
        (401, b'{"error": {"message": "bad key"}}', "(401): bad key; check NEREID_LLM_KEY"),
        (403, b'{"detail": "not you"}', "(403): not you; check NEREID_LLM_KEY"),
        (404, b'{"error": "model x is not here"}', "(404): model x is not here; check NEREID_LLM"),
        (422, b"plain\twords\n of it\0s own", "(422): plain words of it s own"),
        (400, b"", "(400): (no reason given)"),
        (400, b"[1]", "(400): [1]"),
        (307, b"", "sends us elsewhere (307); set NEREID_LLM_URL"),
    ],
)
async def test_a_refusal_is_told_in_the_services_own_words(
    real: Open, server: LanguageServer, status: int, body: bytes, told: str
) -> None:
    server.say(body, status=status)
    error = await _assert_fails(await real(), "language_model_refused", told)
    assert not error.again
    assert len(server.requests) == 1


async def test_the_services_words_are_shortened(real: Open, server: LanguageServer) -> None:
    server.refuse(400, "x" * 100_000)
    error = await _assert_fails(await real(), "language_model_refused", "xxx...")
    assert len(error.message) < LETTERS_OF_AN_ERROR


async def test_spent_credit_is_no_reason_to_try_again(real: Open, server: LanguageServer) -> None:
    server.refuse(429, "You exceeded your current quota", code="insufficient_quota")
    await _assert_fails(await real(), "language_model_refused", "has no credit left")
    assert len(server.requests) == 1


# tries


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504, 529])
async def test_what_may_pass_is_tried_again_with_growing_pauses(
    real: Open, server: LanguageServer, clock: Clock, status: int
) -> None:
    server.refuse(status, times=3)
    model = await real()
    assert await model.complete("a", "b") == "B"
    assert clock.waits == [1.0, 2.0, 4.0]
    assert (await model.usage()).requests_today == 4, "every try that goes out counts"


@pytest.mark.parametrize(
    ("status", "code"), [(429, "language_model_busy"), (500, "language_model_failed")]
)
async def test_tries_have_an_end(
    real: Open, server: LanguageServer, clock: Clock, status: int, code: str
) -> None:
    server.refuse(status, "overloaded", times=TRIES + 1)
    error = await _assert_fails(await real(), code, f"answered {status}: overloaded")
    assert error.again
    assert len(server.requests) == TRIES
    assert clock.waits == [1.0, 2.0, 4.0, 8.0]


async def test_pauses_are_scattered(real: Open, server: LanguageServer, clock: Clock) -> None:
    server.refuse(500, times=2)
    chances = iter([1.0, 0.5])
    await (await real(jitter=lambda: next(chances))).complete("a", "b")
    assert clock.waits == [0.5, 1.5]


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("form", ["seconds", "date"])
async def test_the_service_is_given_the_rest_that_it_asks_for(
    real: Open, server: LanguageServer, clock: Clock, status: int, form: str
) -> None:
    date = format_datetime(NOON + timedelta(seconds=17), usegmt=True)
    server.refuse(status, Retry_After="17" if form == "seconds" else date)
    assert await (await real()).complete("a", "b") == "B"
    assert clock.waits == [17.0]


async def test_a_rest_beyond_our_patience_is_not_waited_for(
    real: Open, server: LanguageServer, clock: Clock
) -> None:
    server.refuse(429, "come tomorrow", Retry_After=f"{PATIENCE_S + 1:.0f}")
    model = await real()
    error = await _assert_fails(model, "language_model_busy", "come tomorrow")
    assert error.again
    assert clock.waits == []
    await _assert_fails(model, "language_model_busy", "no request may go out before 12:01:11")
    assert len(server.requests) == 1, "the rest holds for everybody of this process"


async def test_patience_is_for_all_tries_together(
    real: Open, server: LanguageServer, clock: Clock
) -> None:
    server.refuse(503, times=5, Retry_After="25")
    await _assert_fails(await real(), "language_model_failed", "answered 503")
    assert clock.waits == [25.0, 25.0]
    assert len(server.requests) == 3


async def test_a_429_holds_the_other_requests_of_the_process(
    real: Open, server: LanguageServer, clock: Clock
) -> None:
    model = await real(at_once=1)
    server.refuse(429, Retry_After="30")
    answers = await asyncio.gather(*(model.complete("a", str(n)) for n in range(4)))
    assert answers == ["0", "1", "2", "3"]
    assert len(server.requests) == 5
    assert clock.now == NOON + timedelta(seconds=30)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("2.5", 2.5),
        ("Mon, 04 May 2026 12:01:10 GMT", 60.0),
        ("Mon, 04 May 2026 11:00:00 GMT", 0.0),
        ("Mon, 04 May 2026 12:01:10", None),
        ("-5", None),
        ("soon", None),
        ("1.2.3", None),
        ("\u0663", None),
        ("", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(text: str, seconds: float | None) -> None:
    assert retry_after_s({"retry-after": text}, NOON) == seconds
    assert retry_after_s({}, NOON) is None


async def test_a_connection_that_is_cut_off_is_tried_again(
    real: Open, server: LanguageServer, clock: Clock
) -> None:
    server.cut_off(times=2)
    assert await (await real()).complete("a", "b") == "B"
    assert clock.waits == [1.0, 2.0]


async def test_a_service_that_is_away_is_a_failure_that_may_pass(
    real: Open, clock: Clock, unused_tcp_port: int
) -> None:
    model = await real(url=f"http://127.0.0.1:{unused_tcp_port}")
    error = await _assert_fails(model, "language_model_failed", "cannot be reached")
    assert error.again
    assert len(clock.waits) == TRIES - 1


async def test_a_service_that_does_not_answer_is_given_up(
    real: Open, server: LanguageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(language, "TRIES", 2)
    server.open.clear()
    error = await _assert_fails(
        await real(timeout_s=0.05), "language_model_busy", "no answer within 0.05 s"
    )
    assert error.again
    assert len(server.requests) == 2
    await server.until_in_hand(0)


# limits


async def test_no_more_than_allowed_are_asked_at_once(real: Open, server: LanguageServer) -> None:
    model = await real(at_once=3)
    server.open.clear()
    asking = [asyncio.create_task(model.complete("a", str(n))) for n in range(12)]
    await server.until_in_hand(3)
    server.open.set()
    assert await asyncio.gather(*asking) == [str(n) for n in range(12)]
    assert server.most_in_hand == 3


async def test_two_processes_spend_one_quota_exactly(real: Open, server: LanguageServer) -> None:
    models = [await real(per_day=20), await real(per_day=20)]
    server.refuse(500, times=4)
    asking = (models[n % 2].complete("a", str(n)) for n in range(40))
    outcomes = await asyncio.gather(*asking, return_exceptions=True)
    assert len(server.requests) == 20
    answered = [outcome for outcome in outcomes if isinstance(outcome, str)]
    assert len(answered) <= 16
    codes = {outcome.code for outcome in outcomes if isinstance(outcome, LanguageModelError)}
    assert codes == {"language_model_quota_spent"}
    for model in models:
        assert (await model.usage()).requests_today == 20


async def test_a_restart_keeps_the_count_and_midnight_ends_it(
    real: Open, server: LanguageServer, clock: Clock
) -> None:
    await (await real(per_day=1)).complete("a", "b")
    restarted = await real(per_day=1)
    await _assert_fails(restarted, "language_model_quota_spent", "2026-05-05T00:00:00Z")
    clock.now = datetime(2026, 5, 5, tzinfo=UTC)
    assert (await restarted.usage()).requests_today == 0
    assert await restarted.complete("a", "b") == "B"
    assert len(server.requests) == 2


async def test_a_spent_minute_is_waited_for_and_a_late_one_is_busy(
    real: Open, server: LanguageServer, clock: Clock
) -> None:
    model = await real(per_minute=2)
    for _ in range(3):
        await model.complete("a", "b")
    assert clock.waits == [50.0]
    assert len(server.requests) == 3


async def test_a_cancelled_waiter_gives_its_turn_to_the_next(
    real: Open, server: LanguageServer
) -> None:
    model = await real(at_once=1, per_day=3)
    server.open.clear()
    asking = [asyncio.create_task(model.complete("a", str(n))) for n in range(4)]
    await server.until_in_hand(1)
    asking[1].cancel()
    asking[2].cancel()
    server.open.set()
    outcomes = await asyncio.gather(*asking, return_exceptions=True)
    assert (outcomes[0], outcomes[3]) == ("0", "3")
    assert [request.text for request in server.requests] == ["0", "3"]
    assert (await model.usage()).requests_today == 2


# the key


async def test_the_key_is_in_no_log_no_error_and_no_repr(
    real: Open, server: LanguageServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    model = await real()
    server.refuse(500, f"{'x' * 190}{KEY} broke something")
    server.refuse(401, f"Incorrect API key provided: {KEY}")
    error = await _assert_fails(model, "language_model_refused", "provided: ***; check")
    server.cut_off()
    assert await model.complete("a", "b") == "B"
    server.say(f"what is {KEY}?".encode())
    nonsense = await _assert_fails(model, "language_model_failed", "something else")
    for text in (caplog.text, repr(model), str(error), repr(error), str(nonsense)):
        assert KEY not in text
        assert KEY[:8] not in text
    assert "try 1 of 5" in caplog.text


async def _assert_fails(model: LanguageModel, code: str, told: str) -> LanguageModelError:
    with pytest.raises(LanguageModelError) as caught:
        await model.complete("a", "b")
    assert caught.value.code == code
    assert told in caught.value.message
    return caught.value
