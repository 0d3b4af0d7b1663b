from __future__ import annotations

import io
import logging
import time
from collections.abc import Callable

import pytest

from functions._kit.ports import Client
from gateway.auth import Tokens
from gateway.redaction import MASK, RedactingFormatter, redact
from gateway.settings import Settings, secrets_of

TOKEN = Tokens("s" * 40, 60).issue(Client(client_id="a", secret_hash="-", scopes=frozenset()))
OLD = logging.makeLogRecord({"created": 0, "msg": "x", "levelno": logging.ERROR})
SECRET = "s3cr3t-Value_1"


@pytest.mark.parametrize(
    "line",
    [
        f"Authorization: Bearer {SECRET}",
        f"{{'authorization': 'Bearer {SECRET}', 'host': 'x'}}",
        f"[(b'authorization', b'Bearer {SECRET}')]",
        f"Authorization: Basic {SECRET}",
        f"X-API-Key: {SECRET}",
        f"x-api-key={SECRET}",
        f"headers={{'X-API-Key': '{SECRET}'}}",
        f"(b'x-api-key', b'{SECRET}')",
        f"GET https://s3/b/k?X-Amz-Credential=AK&X-Amz-Signature={SECRET} failed",
        f"https://x.test/hook?token={SECRET}&a=b",
        f"https://x.test/?a=b&api_key={SECRET}",
        f"nats://nereid:{SECRET}@127.0.0.1:4222 is away",
        f"postgresql://u:{SECRET}@db:5432/n",
        f'{{"client_id": "a", "client_secret": "{SECRET}"}}',
        f"{{'password': '{SECRET}'}}",
        f"bearer {SECRET}",
    ],
)
def test_what_looks_like_a_secret_is_masked(line: str) -> None:
    shown = redact(line)
    assert SECRET not in shown
    assert MASK in shown


def test_a_token_is_masked_wherever_it_stands() -> None:
    assert TOKEN not in redact(f"got {TOKEN}, odd")
    assert TOKEN.rpartition(".")[2] not in redact(f"got {TOKEN}, odd")


@pytest.mark.parametrize(
    "line",
    [
        "GET /api/v1/media/processingTasks failed",
        "task 0192f0c1-2345-7000-8000-000000000000 is queued; its row comes later",
        "nats://127.0.0.1:4222 is away",
        "https://x.test/a?camera_id=yard&limit=10",
        "the key 'photos/cat.jpg' ended after 10 of 20 bytes",
    ],
)
def test_the_rest_is_left_alone(line: str) -> None:
    assert redact(line) == line


def logged(secrets: list[str], say: Callable[[logging.Logger], object]) -> str:
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    handler.setFormatter(RedactingFormatter(secrets))
    log = logging.getLogger(f"tests.{id(text)}")
    log.propagate = False
    log.addHandler(handler)
    say(log)
    return text.getvalue()


def test_secrets_of_the_settings_are_masked_in_messages_and_tracebacks() -> None:
    settings = Settings(
        token_secret="t" * 40,
        llm_key="llm-key-of-the-operator",
        nats_url="nats://u:nats-password@host",
        s3_secret_key="s3-secret-key",
        otlp_headers="key=otlp-header-value",
    )
    secrets = secrets_of(settings)
    assert {"t" * 40, "llm-key-of-the-operator", "nats-password", "s3-secret-key"} <= set(secrets)

    def say(log: logging.Logger) -> None:
        try:
            int(", ".join(secrets))
        except ValueError:
            log.exception("all of %s", secrets)

    text = logged(secrets, say)
    assert "Traceback" in text
    assert [secret for secret in secrets if secret in text] == []


def test_no_message_begins_a_line_of_its_own() -> None:
    text = logged(
        [], lambda log: log.error("client %s", "eve\r\n2026 INFO nereid: all is well\x1b[0m")
    )
    assert text.count("\n") == 1
    assert "\x1b" not in text
    assert r"eve\x0d\x0a2026" in text


def test_no_error_in_a_traceback_begins_an_entry_of_its_own() -> None:
    def fail() -> None:
        raise ValueError("eve\n2026-11-29T00:00:00.000Z INFO nereid: all is well\r2026")

    def say(log: logging.Logger) -> None:
        try:
            fail()
        except ValueError:
            log.exception("failed")

    _, *others = logged([], say).splitlines()
    assert any("all is well" in line for line in others)
    assert all(line.startswith("    ") for line in others)


def test_a_line_tells_its_time_in_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Seoul")
    time.tzset()
    try:
        text = logged([], lambda log: log.handle(OLD))
    finally:
        monkeypatch.delenv("TZ")
        time.tzset()
    assert text.startswith("1970-01-01T00:00:00.")
    assert "Z " in text
