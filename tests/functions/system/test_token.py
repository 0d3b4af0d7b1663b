from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import pytest_asyncio

from functions._kit.ports import Client
from functions._kit.secrets import hash_secret
from gateway.edge.rates import Rates

if TYPE_CHECKING:
    from tests.functions.conftest import World

AssertProblem = Callable[..., dict[str, Any]]
PATH = "/api/v1/auth/token"
SECRET = "alice's secret"
GOOD = {"client_id": "alice", "client_secret": SECRET, "grant_type": "client_credentials"}
HASH = hash_secret(SECRET)


@pytest_asyncio.fixture
async def known(world: World, nobody: httpx.AsyncClient) -> httpx.AsyncClient:
    """A caller without a token, and a client that could get one."""
    scopes = frozenset({"media:write", "media:read"})
    await world.clients.add(Client(client_id="alice", secret_hash=HASH, scopes=scopes))
    return nobody


@pytest.mark.parametrize("form", ["json", "data"])
async def test_a_secret_is_worth_a_token_that_works(known: httpx.AsyncClient, form: str) -> None:
    answer = await known.post(PATH, **{form: GOOD})  # type: ignore[arg-type]
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    body = answer.json()
    token = body.pop("access_token")
    assert body == {"token_type": "Bearer", "expires_in": 3600, "scope": "media:read media:write"}
    headers = {"Authorization": f"Bearer {token}"}
    assert (await known.get("/api/v1/media/processingTasks", headers=headers)).status_code == 200


async def test_a_wrong_secret_and_an_unknown_id_get_the_same_answer(
    known: httpx.AsyncClient, assert_problem: AssertProblem
) -> None:
    answers = [
        await known.post(PATH, json=GOOD | changes)
        for changes in (
            {"client_secret": "wrong"},
            {"client_id": "nobody"},
            {"client_id": "ali\0ce"},
            {"client_id": "nobody", "client_secret": "wrong"},
        )
    ]
    assert_problem(answers[0], 401, "invalid_client")
    for answer in answers[1:]:
        assert (answer.status_code, answer.content) == (401, answers[0].content)
        assert answer.headers.keys() == answers[0].headers.keys()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"client_id": "alice", "client_secret": "s"}',
        b'{"client_id": "alice", "client_secret": "s", "grant_type": "password"}',
        b'{"client_id": "", "client_secret": "s", "grant_type": "client_credentials"}',
        b'{"client_id": 1, "client_secret": "s", "grant_type": "client_credentials"}',
        b'{"client_id": "a", "client_secret": "s", "grant_type": "client_credentials", "x": 1}',
        b'\xff{"client_id": "a"}',
    ],
)
async def test_a_body_of_another_form_is_refused(
    known: httpx.AsyncClient, assert_problem: AssertProblem, body: bytes
) -> None:
    answer = await known.post(PATH, content=body, headers={"content-type": "application/json"})
    assert_problem(answer, 400, "invalid_request", "body")


@pytest.mark.parametrize("content", ["", "client_id", "client_id=a&client_secret=b", "%ff=%ff"])
async def test_a_form_of_another_form_is_refused(
    known: httpx.AsyncClient, assert_problem: AssertProblem, content: str
) -> None:
    headers = {"content-type": "application/x-www-form-urlencoded"}
    answer = await known.post(PATH, content=content, headers=headers)
    assert_problem(answer, 400, "invalid_request", "body")


@pytest.mark.parametrize("declared", [True, False])
async def test_a_large_body_is_refused_before_it_is_read(
    known: httpx.AsyncClient, assert_problem: AssertProblem, *, declared: bool
) -> None:
    sent = 0

    async def endless() -> Any:
        nonlocal sent
        while sent < 64 << 20:
            sent += 1 << 16
            yield bytes(1 << 16)

    headers = {"content-length": str(64 << 20)} if declared else {}
    answer = await known.post(PATH, content=endless(), headers=headers)
    assert_problem(answer, 413, "body_too_large")
    assert sent <= 1 << 20


async def test_guessing_is_slowed_down(
    world: World, known: httpx.AsyncClient, assert_problem: AssertProblem
) -> None:
    del known
    caller = await world.http(world.new_app(rates=Rates(tokens_per_address=3)))
    for _ in range(3):
        assert (await caller.post(PATH, json=GOOD)).status_code == 200
    answer = await caller.post(PATH, json=GOOD)
    assert_problem(answer, 429, "too_many_requests")
    assert 0 < int(answer.headers["retry-after"]) <= 60
    assert (await caller.get("/health/live")).status_code == 200, "only tokens are rationed"


async def test_no_token_while_the_clients_are_unknown(
    world: World, known: httpx.AsyncClient, assert_problem: AssertProblem
) -> None:
    world.clients.sick = True
    assert_problem(await known.post(PATH, json=GOOD), 503, "database_unavailable")
