"""A token's signature is checked once, and what came of it is forgotten in time."""

from __future__ import annotations

import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import jwt
import pytest

from functions._kit.errors import Unauthenticated
from functions._kit.ports import Client
from gateway import auth
from gateway.auth import Tokens

SECRET = "s" * 32
CLIENT = Client(client_id="me", secret_hash="", scopes=frozenset({"media:read"}))


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Tokens whose signatures were checked."""
    seen: list[str] = []
    decode = jwt.decode

    def counted(token: str, *arguments: Any, **options: Any) -> Any:
        seen.append(token)
        return decode(token, *arguments, **options)

    monkeypatch.setattr(jwt, "decode", counted)
    return seen


def test_a_signature_is_checked_once_and_an_expired_token_is_refused_all_the_same(
    decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = Tokens(SECRET, 3600)
    token = tokens.issue(CLIENT)
    assert tokens.is_token(token)
    first = tokens.read(token)
    assert (first.client_id, first.scopes) == ("me", frozenset({"media:read"}))
    assert tokens.read(token) is first
    assert tokens.is_token(token)
    assert decoded == [token]
    late = time.time() + 3601
    monkeypatch.setattr(auth, "time", SimpleNamespace(time=lambda: late))
    monkeypatch.setattr("jwt.api_jwt.datetime", _At(late))
    with pytest.raises(Unauthenticated, match="expired"):
        tokens.read(token)


def test_a_forged_token_is_not_remembered(decoded: list[str]) -> None:
    tokens = Tokens(SECRET, 3600)
    forged = Tokens("t" * 32, 3600).issue(CLIENT)
    for _ in range(2):
        with pytest.raises(Unauthenticated, match="not valid"):
            tokens.read(forged)
    assert decoded == [forged, forged]


def test_only_so_many_tokens_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "MOST_REMEMBERED", 3)
    tokens = Tokens(SECRET, 3600)
    for n in range(10):
        tokens.read(tokens.issue(replace(CLIENT, client_id=f"me-{n}")))
        assert len(tokens._read) <= 3


class _At:
    """A clock for PyJWT, which asks for the time in its own way."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def now(self, tz: object) -> _At:
        """This moment."""
        del tz
        return self

    def timestamp(self) -> float:
        """In seconds."""
        return self._seconds
