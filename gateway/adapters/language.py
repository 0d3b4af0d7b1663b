"""The port `LanguageModel` over any service that speaks OpenAI's chat completions."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

import httpx

from functions._kit.errors import Unavailable
from functions._kit.limiter import Clock, Limiter, NoTurn, QuotaSpent, Wait
from functions._kit.messages import now
from functions._kit.ports import (
    KeyValue,
    LanguageModel,
    LanguageModelError,
    LanguageModelUsage,
    Turns,
)
from gateway.adapters.chat import (
    TemperatureRefused,
    TryAgain,
    chat_url,
    checked_key,
    encode_request,
    read_answer,
)
from gateway.settings import SettingsError

log = logging.getLogger(__name__)

NAME = "language_model"
"""Of the quota: see `Limiter`."""
TRIES = 5
PATIENCE_S = 60.0
"""For turns and pauses in all; each try that goes out has its own time beside it."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 20.0
"""After the first try, and the most that doubling makes of it."""
CONNECT_TIMEOUT_S = 10.0
MAX_ANSWER_BYTES = 4 << 20
NOT_SET = (
    "no language model is set: set NEREID_LLM_URL to a service that speaks OpenAI's chat "
    "completions, NEREID_LLM_MODEL to the name of its model and, where it wants one, "
    "NEREID_LLM_KEY; transcription needs none"
)


class UnsetLanguageModel:
    """Stands where the operator has set none, and says so."""

    def __init__(self, limiter: Limiter) -> None:
        self._limiter = limiter

    async def complete(self, instructions: str, text: str) -> str:  # noqa: ARG002 - the port's
        """Raise `LanguageModelError` (`language_model_not_set`)."""
        raise LanguageModelError("language_model_not_set", NOT_SET)

    def turns(self) -> Turns:
        """See `LanguageModel.turns`."""
        return self._limiter.turns()

    async def usage(self) -> LanguageModelUsage:
        """See `LanguageModel.usage`."""
        return await _usage(self._limiter, None)


class OpenAILanguageModel:
    """One model of one service; `http` carries its key: see `open_language_model`."""

    def __init__(
        self,
        http: httpx.AsyncClient,
        url: httpx.URL,
        model: str,
        limiter: Limiter,
        *,
        secret: str | None,
        timeout_s: float,
        clock: Clock,
        wait: Wait,
        jitter: Callable[[], float],
    ) -> None:
        self._http = http
        self._url = url
        self._model = model
        self._limiter = limiter
        self._secret = secret
        self._timeout_s = timeout_s
        self._clock = clock
        self._wait = wait
        self._jitter = jitter
        self._temperature: float | None = 0.0

    async def complete(self, instructions: str, text: str) -> str:
        """See `LanguageModel.complete`. Every try that goes out counts against the quota."""
        try:
            return await self._try_until_answered(instructions, text)
        except QuotaSpent as error:
            raise LanguageModelError("language_model_quota_spent", error.message) from error
        except (NoTurn, Unavailable) as error:
            raise LanguageModelError("language_model_busy", error.message, again=True) from error

    def turns(self) -> Turns:
        """See `LanguageModel.turns`."""
        return self._limiter.turns()

    async def usage(self) -> LanguageModelUsage:
        """See `LanguageModel.usage`."""
        return await _usage(self._limiter, self._model)

    async def _try_until_answered(self, instructions: str, text: str) -> str:
        """Try until there is an answer, an error that stays, or no patience left."""
        deadline = self._clock() + timedelta(seconds=PATIENCE_S)
        number = 0
        while True:
            number += 1
            left_s = max(0.0, (deadline - self._clock()).total_seconds())
            try:
                async with self._limiter.turn(patience_s=left_s):
                    return await self._ask(instructions, text)
            except TryAgain as failure:
                pause_s = failure.pause_s or self._backoff_s(number)
                log.warning("try %d of %d: %s", number, TRIES, failure.error.message)
                if failure.for_all:
                    self._limiter.pause(pause_s)
                resumes_at = self._clock() + timedelta(seconds=pause_s)
                if number == TRIES or resumes_at > deadline:
                    raise failure.error from None
                if not failure.for_all:  # otherwise the next turn waits so long
                    await self._wait(pause_s)

    async def _ask(self, instructions: str, text: str) -> str:
        """One request. Raises `TryAgain` and `LanguageModelError`."""
        temperature = self._temperature
        body = encode_request(self._model, instructions, text, temperature)
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                self._http.stream("POST", self._url, content=body) as response,
            ):
                content = await _bounded(response)
            return read_answer(response, content, secret=self._secret, now=self._clock())
        except TemperatureRefused as error:
            if temperature is None:
                raise
            self._temperature = None
            raise TryAgain(error) from error
        except TimeoutError as error:
            told = f"gave no answer within {self._timeout_s:g} s"
            raise _unanswered("language_model_busy", told) from error
        except (httpx.HTTPError, OSError) as error:
            told = f"cannot be reached: {error!r}"
            raise _unanswered("language_model_failed", told) from error

    def _backoff_s(self, number: int) -> float:
        """Seconds after try `number`: doubled each time, less up to half of it by chance."""
        longest_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** (number - 1))
        return longest_s * (1 - self._jitter() / 2)


@asynccontextmanager
async def open_language_model(
    *,
    url: str | None,
    key: str | None,
    model: str | None,
    at_once: int,
    per_minute: int | None,
    per_day: int | None,
    timeout_s: float,
    values: KeyValue,
    clock: Clock = now,
    wait: Wait = asyncio.sleep,
    jitter: Callable[[], float] = random.random,
) -> AsyncIterator[LanguageModel]:
    """The operator's language model, or one that says that none is set, where `url` is empty.

    `timeout_s` holds for each try; `url` is read by `chat_url`. Nothing is sent yet. Raises
    `SettingsError`.
    """
    limiter = Limiter(
        values,
        NAME,
        at_once=at_once,
        per_minute=per_minute,
        per_day=per_day,
        clock=clock,
        wait=wait,
    )
    if not url:
        yield UnsetLanguageModel(limiter)
        return
    if not model:
        raise SettingsError("NEREID_LLM_URL is set, so NEREID_LLM_MODEL must name a model of it")
    try:
        address = chat_url(url)
    except ValueError as error:
        raise SettingsError(f"NEREID_LLM_URL {error}") from None
    try:
        secret = checked_key(key)
    except ValueError as error:
        raise SettingsError(f"NEREID_LLM_KEY {error}") from None
    headers = {"Content-Type": "application/json", "User-Agent": "nereid"}
    if secret:
        headers["Authorization"] = f"Bearer {secret}"
    async with httpx.AsyncClient(
        headers=headers,
        timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT_S),
        limits=httpx.Limits(max_connections=at_once),
    ) as http:
        yield OpenAILanguageModel(
            http,
            address,
            model,
            limiter,
            secret=secret,
            timeout_s=timeout_s,
            clock=clock,
            wait=wait,
            jitter=jitter,
        )


async def _bounded(response: httpx.Response) -> bytes:
    content = bytearray()
    async for chunk in response.aiter_bytes():
        content += chunk
        if len(content) > MAX_ANSWER_BYTES:
            raise LanguageModelError(
                "language_model_failed",
                f"the language model's service sent more than {MAX_ANSWER_BYTES} bytes",
                again=True,
            )
    return bytes(content)


async def _usage(limiter: Limiter, model: str | None) -> LanguageModelUsage:
    usage = await limiter.usage()
    return LanguageModelUsage(
        model=model,
        requests_today=usage.today,
        requests_per_day=usage.per_day,
        resets_at=usage.resets_at,
    )


def _unanswered(code: str, what: str) -> TryAgain:
    message = f"the language model's service {what}"
    return TryAgain(LanguageModelError(code, message, again=True))
