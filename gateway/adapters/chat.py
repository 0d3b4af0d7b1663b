"""OpenAI's chat completions on the wire: the address, a request, and what an answer means."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
import msgspec

from functions._kit.messages import NO_JSON, Message
from functions._kit.ports import LanguageModelError

MAX_MESSAGE_LETTERS = 200
"""Of the service's own words in an error of ours."""
TEMPORARY = frozenset({408, 409, 425, 429})
"""Statuses below 500 after which the same request may succeed; OpenAI's own client retries the
same, but for 425 (RFC 8470)."""
BUSY = frozenset({408, 429})


class TryAgain(Exception):
    """The same request may yet succeed; `error` is what to raise where it is not tried again."""

    def __init__(
        self, error: LanguageModelError, *, pause_s: float | None = None, for_all: bool = False
    ) -> None:
        super().__init__(error.message)
        self.error = error
        self.pause_s = pause_s
        """As the service wishes; None or 0 where it has not said."""
        self.for_all = for_all
        """Whether other requests would meet the same."""


class TemperatureRefused(LanguageModelError):
    """The model answers at its own temperature alone, as OpenAI's reasoning models do."""


class _Reply(Message, frozen=True, kw_only=True):
    content: str | None = None
    refusal: str | None = None


class _Choice(Message, frozen=True, kw_only=True):
    message: _Reply
    finish_reason: str | None = None


class _Completion(Message, frozen=True, kw_only=True):
    choices: tuple[_Choice, ...]


_decode = msgspec.json.Decoder(_Completion).decode


def chat_url(url: str) -> httpx.URL:
    """Where the chat completions of the service at `url` are.

    A bare address gets `/v1`, as OpenAI, vLLM, llama.cpp and Ollama have it; any other path is
    taken as the service's documentation gives its base URL. A slash at the end, and
    `/chat/completions` itself, make no difference. Raises ValueError.
    """
    try:
        parsed = httpx.URL(url.strip())
    except httpx.InvalidURL:
        parsed = httpx.URL("")
    if parsed.scheme not in {"http", "https"} or not parsed.host:
        raise ValueError("must be an address such as http://127.0.0.1:11434/v1")
    path = parsed.path.rstrip("/").removesuffix("/chat/completions")
    return parsed.copy_with(path=f"{path or '/v1'}/chat/completions")


def checked_key(key: str | None) -> str | None:
    """`key` without spaces around it, None where nothing is left. Raises ValueError.

    The message never shows the key, as the HTTP client's would.
    """
    key = (key or "").strip()
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise ValueError("must be printable ASCII in one word, as a header can carry it")
    return key or None


def encode_request(model: str, instructions: str, text: str, temperature: float | None) -> bytes:
    """The body of a request; `temperature` None leaves it to the model."""
    body: dict[str, Any] = {
        "model": model,
        "messages": [
            {"role": "system", "content": instructions},
            {"role": "user", "content": text},
        ],
    }
    if temperature is not None:
        body["temperature"] = temperature
    return msgspec.json.encode(body)


def read_answer(
    response: httpx.Response, content: bytes, *, secret: str | None, now: datetime
) -> str:
    """The model's answer. Raises `TryAgain` or `LanguageModelError`, without `secret` in them."""
    status = response.status_code
    if 200 <= status < 300:
        return _completion(content)
    told, facts = _error_of(content)
    if secret:
        told = told.replace(secret, "***")
    told = _shortened(told)
    if facts.get("code") == "insufficient_quota":  # a 429 at OpenAI, and no rest mends it
        raise _refused(f"has no credit left for this key ({status}): {told}")
    if status in TEMPORARY or status >= 500:
        code = "language_model_busy" if status in BUSY else "language_model_failed"
        error = LanguageModelError(
            code, f"the language model's service answered {status}: {told}", again=True
        )
        pause_s = retry_after_s(response.headers, now)
        raise TryAgain(error, pause_s=pause_s, for_all=status == 429)
    if facts.get("param") == "temperature":
        message = f"the language model's service {_verdict(status, told)}"
        raise TemperatureRefused("language_model_refused", message)
    raise _refused(_verdict(status, told))


def retry_after_s(headers: Mapping[str, str], now: datetime) -> float | None:
    """Seconds that `Retry-After` (RFC 9110, 10.2.3) asks for, as a number or as a date."""
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.replace(".", "", 1).isdigit():
        return float(text)
    try:
        return max(0.0, (parsedate_to_datetime(text) - now).total_seconds())
    except (ValueError, TypeError):  # no date, or one without a zone
        return None


def _completion(content: bytes) -> str:
    try:
        choice = _decode(content).choices[0]
    except (*NO_JSON, IndexError) as error:
        raise _no_answer("something else than a chat completion") from error
    if choice.message.refusal or choice.finish_reason == "content_filter":
        told = _shortened(choice.message.refusal or "its filter has stopped the answer")
        raise _refused(f"does not answer this: {told}")
    if choice.finish_reason == "length":
        raise _refused(
            "stopped in the middle of the answer, at its own limit of length; raise that limit, "
            "or set NEREID_LLM_MODEL to a model with a larger one"
        )
    if not choice.message.content or not choice.message.content.strip():
        raise _no_answer("an empty answer")
    return choice.message.content


def _verdict(status: int, told: str) -> str:
    if status in {401, 403}:
        return f"refused the key ({status}): {told}; check NEREID_LLM_KEY"
    if status == 404:
        return f"knows no such address or model (404): {told}; check NEREID_LLM_URL and _MODEL"
    if 300 <= status < 400:
        return f"sends us elsewhere ({status}); set NEREID_LLM_URL to its final address"
    return f"refused the request ({status}): {told}"


def _error_of(content: bytes) -> tuple[str, Mapping[str, Any]]:
    """The service's own words, and the members of OpenAI's error object where it sent one."""
    try:
        body = msgspec.json.decode(content)
    except NO_JSON:
        return content.decode("utf-8", "replace"), {}
    error = body.get("error", body) if isinstance(body, dict) else body
    if not isinstance(error, dict):
        return str(error), {}
    told = error.get("message") or error.get("detail") or content.decode("utf-8", "replace")
    return str(told), error


def _shortened(text: str) -> str:
    words = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    cut = len(words) > MAX_MESSAGE_LETTERS
    return f"{words[:MAX_MESSAGE_LETTERS]}..." if cut else words or "(no reason given)"


def _refused(what: str) -> LanguageModelError:
    return LanguageModelError("language_model_refused", f"the language model's service {what}")


def _no_answer(what: str) -> LanguageModelError:
    return LanguageModelError(
        "language_model_failed", f"the language model's service sent {what}", again=True
    )
