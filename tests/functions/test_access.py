"""Who gets in: every route against callers that may not use it."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httpx
import jwt
import pytest
from litestar.handlers import HTTPRouteHandler

from functions._kit.errors import Unauthenticated, Unavailable
from functions._kit.messages import new_id
from functions._kit.policy import SCOPES, HttpPolicy
from functions._kit.ports import Client
from gateway import auth
from gateway.registry import discover

if TYPE_CHECKING:
    from tests.functions.conftest import World

AssertProblem = Callable[..., dict[str, Any]]
PUBLIC = {"GET /health/live", "GET /health/ready", "POST /api/v1/auth/token"}
PUBLIC |= {"GET /", "GET /console/{name:str}"}
ALICE = Client(client_id="alice", secret_hash="-", scopes=frozenset())
"""As `World.caller` adds her."""
ENDLESS = {"/api/v1/alerts/stream"}


def _routes() -> list[tuple[str, str, tuple[str, ...]]]:
    """Method, an example of the path, and scopes of every HTTP function."""
    found = []
    task_id = "0192f0c1-2345-7000-8000-000000000000"
    handlers: list[HTTPRouteHandler] = [r for f in discover() for r in f.routes]
    for handler in handlers:
        policy: HttpPolicy = handler.opt["policy"]
        suffix = handler.opt.get("openapi_suffix", "")
        for path in sorted(handler.paths):
            for method in sorted(handler.http_methods):
                example = path.replace("{task_id:str}", task_id) + suffix
                found.append((str(method), example, policy.any_of))
    return found


ROUTES = _routes()
GUARDED = [route for route in ROUTES if route[2]]
guarded = pytest.mark.parametrize(
    ("method", "path", "scopes"), GUARDED, ids=[f"{m} {p}" for m, p, _ in GUARDED]
)


def test_only_health_and_token_are_public() -> None:
    assert {f"{method} {path}" for method, path, scopes in ROUTES if not scopes} == PUBLIC
    assert len(GUARDED) >= 6


@guarded
async def test_nobody_gets_in_without_credentials(
    nobody: httpx.AsyncClient,
    assert_problem: AssertProblem,
    method: str,
    path: str,
    scopes: tuple[str, ...],
) -> None:
    del scopes
    answer = await nobody.request(method, path)
    assert_problem(answer, 401, "credentials_missing")
    assert answer.headers["www-authenticate"] == 'Bearer realm="nereid"'


@guarded
async def test_every_scope_but_the_right_one_is_not_enough(
    world: World, assert_problem: AssertProblem, method: str, path: str, scopes: tuple[str, ...]
) -> None:
    caller = await world.caller("most", *SCOPES.difference(scopes))
    assert_problem(await caller.request(method, path), 403, "scope_missing", "scope")
    world.stream.sick = path in ENDLESS  # or the answer would have no end
    for scope in scopes:
        right = await world.caller(scope.replace(":", "-"), scope)
        assert (await right.request(method, path)).status_code not in {401, 403}


async def test_the_apis_own_documentation_is_public_and_the_rest_is_absent(
    described: httpx.AsyncClient, nobody: httpx.AsyncClient, assert_problem: AssertProblem
) -> None:
    document = (await described.get("/schema/openapi.json")).json()
    assert "/api/v1/media:process" in document["paths"]
    assert "/api/v1/media/processingTasks/{task_id}:cancel" in document["paths"]
    assert_problem(await nobody.get("/nothing/here"), 404, "not_found")
    assert_problem(await nobody.delete("/health/live"), 405, "method_not_allowed")


def _part(content: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(content).encode()).rstrip(b"=").decode()


def _claims(**changes: Any) -> dict[str, Any]:
    moment = int(time.time())
    claims = {"sub": "alice", "aud": "nereid", "scope": "media:read", "iat": moment}
    claims |= {"exp": moment + 60, "row": auth.fingerprint(ALICE), **changes}
    return {name: value for name, value in claims.items() if value is not None}


def _forgeries(right_key: str) -> dict[str, str]:
    other = "another key that is as long as the right key is"
    good = jwt.encode(_claims(), right_key, algorithm="HS256")
    head, body, signature = good.split(".")
    return {
        "expired": jwt.encode(_claims(exp=int(time.time()) - 1), right_key, algorithm="HS256"),
        "other key": jwt.encode(_claims(), other, algorithm="HS256"),
        "alg none": f"{_part({'alg': 'none', 'typ': 'JWT'})}.{body}.",
        "alg None, signed": f"{_part({'alg': 'None'})}.{body}.{signature}",
        "other algorithm": jwt.encode(_claims(), right_key * 2, algorithm="HS512"),
        "more scopes": f"{head}.{_part(_claims(scope='system:read'))}.{signature}",
        "no signature": f"{head}.{body}.",
        "another audience": jwt.encode(_claims(aud="x"), right_key, algorithm="HS256"),
        "no audience": jwt.encode(_claims(aud=None), right_key, algorithm="HS256"),
        "no end": jwt.encode(_claims(exp=None), right_key, algorithm="HS256"),
        "nobody": jwt.encode(_claims(sub=None), right_key, algorithm="HS256"),
        "another row": jwt.encode(_claims(row="0" * 16), right_key, algorithm="HS256"),
        "no row": jwt.encode(_claims(row=None), right_key, algorithm="HS256"),
        "scopes of another form": jwt.encode(_claims(scope=["a"]), right_key, algorithm="HS256"),
        "removed client": jwt.encode(_claims(sub="removed"), right_key, algorithm="HS256"),
        "not yet": jwt.encode(_claims(nbf=int(time.time()) + 60), right_key, algorithm="HS256"),
        "empty": "",
        "noise": "a.b.c",
        "long": "x" * 10_000,
        "not base64": "ä.ö.ü".encode().decode("latin-1"),
    }


@pytest.mark.parametrize("forgery", _forgeries("k" * 64))
async def test_no_forged_token_gets_in(
    world: World, assert_problem: AssertProblem, forgery: str
) -> None:
    await world.caller("alice", "media:read")
    forged = _forgeries(world.tokens._secret)[forgery]
    caller = await world.http()
    header = {b"authorization": b"Bearer " + forged.encode("latin-1")}
    answer = await caller.get("/api/v1/media/processingTasks", headers=header)
    assert_problem(answer, 401, "token_expired" if forgery == "expired" else "invalid_token")


async def test_a_good_token_gets_in_whatever_the_case_of_bearer(world: World) -> None:
    await world.caller("alice", "media:read")
    token = jwt.encode(_claims(), world.tokens._secret, algorithm="HS256")
    for scheme in ("Bearer", "bearer", "BEARER"):
        caller = await world.http(Authorization=f"{scheme} {token}")
        assert (await caller.get("/api/v1/media/processingTasks")).status_code == 200


async def test_a_client_that_was_added_again_is_not_who_it_was(
    world: World, assert_problem: AssertProblem
) -> None:
    """Its old tokens may have been lost together with the old secret."""
    alice = await world.caller("alice", "media:read")
    await world.clients.remove("alice")
    again = Client(client_id="alice", secret_hash="another", scopes=frozenset({"media:read"}))
    await world.clients.add(again)
    assert_problem(await alice.get("/api/v1/media/processingTasks"), 401, "invalid_token")


async def test_a_token_gives_no_scope_that_the_client_does_not_have(
    world: World, assert_problem: AssertProblem
) -> None:
    await world.caller("alice", "media:read")
    token = jwt.encode(_claims(scope="media:read system:read"), world.tokens._secret, "HS256")
    caller = await world.http(Authorization=f"Bearer {token}")
    assert (await caller.get("/api/v1/media/processingTasks")).status_code == 200
    assert_problem(await caller.get("/metrics"), 403, "scope_missing", "scope")


async def test_tokens_and_keys_of_the_previous_secret_hold_while_it_is_named(
    world: World,
) -> None:
    await world.add_key("bob", "a key of the old days", "media:read")
    await world.caller("alice", "media:read")
    old = world.tokens._secret
    token = jwt.encode(_claims(), old, "HS256")
    statuses = {}
    for previous in (old, None):
        tokens = auth.Tokens("the new secret of 32 characters or more", 3600, previous)
        held = auth.Authenticator(world.clients, tokens, tokens._secret, previous)
        for name, headers in {
            "token": {"authorization": f"Bearer {token}"},
            "key": {"x-api-key": "a key of the old days"},
        }.items():
            try:
                statuses[name, previous] = (await held.authenticate(headers)).client_id
            except Unauthenticated as error:
                statuses[name, previous] = error.code
    assert statuses == {
        ("token", old): "alice",
        ("key", old): "bob",
        ("token", None): "invalid_token",
        ("key", None): "invalid_api_key",
    }


async def test_a_removed_client_is_out_as_soon_as_it_is_forgotten(
    world: World, assert_problem: AssertProblem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "REMEMBER_S", -1.0)
    alice = await world.caller("alice", "media:read")
    assert (await alice.get("/api/v1/media/processingTasks")).status_code == 200
    await world.clients.remove("alice")
    assert_problem(await alice.get("/api/v1/media/processingTasks"), 401, "invalid_token")


async def test_an_api_key_gets_in_and_a_wrong_one_does_not(
    world: World, assert_problem: AssertProblem
) -> None:
    key = "an api key"
    await world.add_key("alice", key, "media:read")
    caller = await world.http()
    path = "/api/v1/media/processingTasks"
    assert (await caller.get(path, headers={"X-API-Key": key})).status_code == 200
    for wrong in ("another", "", key + " ", "x" * 10_000):
        answer = await caller.get(path, headers={"X-API-Key": wrong + "."})
        code = "invalid_token" if len(wrong) > 5000 else "invalid_api_key"
        assert_problem(answer, 401, code)


async def test_a_burst_with_one_key_looks_it_up_once(world: World) -> None:
    """A look-up costs some 30 ms of a core, and fifty of them would hold up everybody."""
    key, looked_up = "the key of fifty requests", 0
    await world.add_key("many", key, "media:read")
    find = world.clients.find_by_key

    async def counted(lookup: bytes) -> Client | None:
        nonlocal looked_up
        looked_up += 1
        return await find(lookup)

    world.clients.find_by_key = counted  # type: ignore[method-assign]
    caller, path, headers = await world.http(), "/api/v1/media/processingTasks", {"X-API-Key": key}
    answers = await asyncio.gather(*(caller.get(path, headers=headers) for _ in range(50)))
    assert {answer.status_code for answer in answers} == {200}
    assert looked_up == 1


@pytest.mark.parametrize("key", ["an api key", "nk-1_2", "a.b.c", "eyJ.eyJ.x"])
async def test_an_api_key_gets_in_as_a_bearer_token_whatever_it_looks_like(
    world: World, assert_problem: AssertProblem, key: str
) -> None:
    await world.add_key("alice", key, "media:read")
    caller = await world.http()
    path = "/api/v1/media/processingTasks"
    answer = await caller.get(path, headers={"Authorization": f"Bearer {key}"})
    assert answer.status_code == 200
    for wrong in (key + "x", key[:-1], "x" * 10_000):
        answer = await caller.get(path, headers={"Authorization": f"Bearer {wrong}"})
        assert_problem(answer, 401, "invalid_token")


async def test_sick_backends_refuse_and_do_not_let_in(
    world: World, alice: httpx.AsyncClient, assert_problem: AssertProblem
) -> None:
    world.clients.sick = True
    answer = await alice.get("/api/v1/media/processingTasks")
    assert_problem(answer, 503, "database_unavailable")
    assert int(answer.headers["retry-after"]) > 0


async def test_what_a_server_of_ours_said_is_told_to_the_log_alone(
    world: World,
    alice: httpx.AsyncClient,
    assert_problem: AssertProblem,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def away(task_id: str) -> None:
        raise Unavailable("database", 'server at "10.1.2.3" refused user "u"') from OSError(task_id)

    world.store.get = away  # type: ignore[method-assign]
    answer = await alice.get(f"/api/v1/media/processingTasks/{new_id()}")
    body = assert_problem(answer, 503, "database_unavailable")
    assert "the database does not serve us" in body["detail"]
    assert "10.1.2.3" not in answer.text
    assert "10.1.2.3" in caplog.text


async def test_an_error_of_ours_tells_nothing_of_itself(
    world: World, alice: httpx.AsyncClient, assert_problem: AssertProblem
) -> None:
    async def broken(task_id: str) -> None:
        raise ZeroDivisionError(f"secret {task_id}")

    world.store.get = broken  # type: ignore[method-assign]
    answer = await alice.get(f"/api/v1/media/processingTasks/{new_id()}")
    body = assert_problem(answer, 500, "internal_error")
    assert "secret" not in str(body)
