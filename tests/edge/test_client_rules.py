"""What a client may be called, and which secrets are too easy."""

from __future__ import annotations

from typing import Any

import pytest
from click.testing import CliRunner

from functions._kit.secrets import LONGEST, SHORTEST, check_client_id, check_secret, new_secret
from gateway.cli import clients as module
from gateway.cli import main


@pytest.mark.parametrize("name", ["a", "camera-1", "nas.home", "me@example.org", "A_b", "x" * 128])
def test_a_client_id_is_a_plain_word(name: str) -> None:
    check_client_id(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../x",
        "a/b",
        "/a",
        "a b",
        "a\nb",
        "a\0b",
        "ü",
        "x" * 129,
        "-a",
        "a\\b",
        "a\n",
    ],
)
def test_a_client_id_that_could_be_another_place_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="a client id is"):
        check_client_id(name)


@pytest.mark.parametrize("secret", ["a long secret", "x1y2z3w4v5u6", "ab cd!" * 42])
def test_a_secret_that_is_long_and_varied_is_taken(secret: str) -> None:
    check_secret(secret, "me")


@pytest.mark.parametrize(
    "secret",
    ["", "short", "abcdefg", "a" * 12, "abababababab", "long-client-id", "Long-Client-ID",
     "tab\tin secret", "new line\nin it", "sécret of mine", " a long secret", "x1y2z" * 52],
)  # fmt: skip
def test_a_secret_that_is_easy_or_no_header_carries_is_refused(secret: str) -> None:
    with pytest.raises(ValueError, match="it must"):
        check_secret(secret, "long-client-id")


def test_what_is_generated_is_within_the_rules() -> None:
    made = {new_secret() for _ in range(100)}
    assert len(made) == 100
    assert all(SHORTEST <= len(secret) <= LONGEST for secret in made)
    for secret in made:
        check_secret(secret, "me")


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What `clients add` would have stored."""
    calls: list[tuple[Any, ...]] = []

    def add(_settings: object, *arguments: Any) -> None:
        calls.append(arguments)

    monkeypatch.setattr(module, "_add", add)
    monkeypatch.setattr(module, "run", lambda _: None)
    return calls


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["../me"], "CLIENT_ID"),
        (["me", "--secret", "short"], "--secret"),
        (["me", "--api-key", "short"], "--api-key"),
        (["me", "--secret", "-"], "--secret"),
    ],
)
def test_a_weak_one_is_refused_with_its_option(
    added: list[tuple[Any, ...]], words: list[str], hint: str
) -> None:
    done = CliRunner().invoke(main, ["clients", "add", *words], input="")
    assert done.exit_code == 2
    assert hint in done.output
    assert added == []


def test_secrets_can_be_read_from_stdin_where_no_other_user_sees_them(
    added: list[tuple[Any, ...]],
) -> None:
    words = ["clients", "add", "me", "--secret", "-", "--api-key", "-"]
    done = CliRunner().invoke(main, words, input="the first line!\nthe second line!\n")
    assert done.exit_code == 0, done.output
    ((client_id, secret, _, api_key),) = added
    assert (client_id, secret, api_key) == ("me", "the first line!", "the second line!")
