"""What every answer tells browsers, who may call from another origin, and the page of the API."""

from __future__ import annotations

import base64
import hashlib
import re
from typing import TYPE_CHECKING

import httpx
import pytest

from functions._kit.ports import Client
from gateway.registry import discover

if TYPE_CHECKING:
    from tests.functions.conftest import World

TASKS = "/api/v1/media/processingTasks"
OTHER = Client(client_id="other", secret_hash="-", scopes=frozenset())
FORBIDS_FRAMES = "frame-ancestors 'none'"
ROUTES = sorted(
    {(str(m), min(r.paths)) for f in discover() for r in f.routes for m in r.http_methods}
    - {("GET", "/api/v1/alerts/stream")}
)


async def test_every_answer_keeps_browsers_from_misusing_it(
    world: World, alice: httpx.AsyncClient, nobody: httpx.AsyncClient
) -> None:
    answers = [await nobody.request(method, path) for method, path in ROUTES]
    answers += [await alice.request(method, path) for method, path in ROUTES]
    answers += [await nobody.get(path) for path in ("/nothing", "/schema/nothing", "/console/x")]
    answers.append(await nobody.delete("/health/live"))
    world.clients.sick = True
    fresh = await world.http(Authorization=f"Bearer {world.tokens.issue(OTHER)}")
    answers.append(await fresh.get(TASKS))
    assert {answer.status_code for answer in answers} >= {200, 401, 403, 404, 405, 503}
    for answer in answers:
        where = f"{answer.request.method} {answer.request.url} {answer.status_code}"
        assert answer.headers["x-content-type-options"] == "nosniff", where
        assert answer.headers["x-frame-options"] == "DENY", where
        assert answer.headers["referrer-policy"] == "no-referrer", where
        assert FORBIDS_FRAMES in answer.headers["content-security-policy"], where
        assert answer.headers["cache-control"] in {"no-store", "no-cache"}, where
        assert answer.headers["cross-origin-resource-policy"] == "same-origin", where
        assert "server" not in answer.headers, where
        assert "set-cookie" not in answer.headers, where
        assert "strict-transport-security" not in answer.headers, where
        assert "access-control-allow-origin" not in answer.headers, where


async def test_no_cookie_and_no_query_signs_anybody_in(
    world: World, nobody: httpx.AsyncClient
) -> None:
    """So no page of another origin can act for its reader: nothing is sent by itself."""
    await world.add_key("alice", "a key of alice's", "media:read")
    client = await world.clients.find("alice")
    assert client is not None
    shown = {"X-API-Key": "a key of alice's", "Authorization": world.tokens.issue(client)}
    shown |= {"access_token": world.tokens.issue(client), "api_key": "a key of alice's"}
    for name, value in shown.items():
        assert (await nobody.get(TASKS, params={name: value})).status_code == 401
        cookie = {"Cookie": f'{name}="{value}"'}
        assert (await nobody.get(TASKS, headers=cookie)).status_code == 401


async def test_trace_is_not_answered(nobody: httpx.AsyncClient) -> None:
    for path in ("/", TASKS, "/health/live"):
        answer = await nobody.request("TRACE", path, headers={"X-Secret": "echo"})
        assert answer.status_code == 405
        assert "echo" not in answer.text


async def test_private_answers_are_stored_nowhere(world: World, alice: httpx.AsyncClient) -> None:
    task = await world.add_task()
    for path in (TASKS, f"{TASKS}/{task.task_id}"):
        answer = await alice.get(path)
        assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")


async def test_over_tls_browsers_are_told_to_stay_there(world: World) -> None:
    caller = httpx.AsyncClient(
        transport=httpx.ASGITransport(world.app),  # type: ignore[arg-type]
        base_url="https://nereid.test",
    )
    async with caller:
        answer = await caller.get("/health/live")
    age = re.fullmatch(
        r"max-age=(\d+); includeSubDomains", answer.headers["strict-transport-security"]
    )
    assert age is not None
    assert int(age[1]) >= 365 * 24 * 3600


async def test_no_script_of_ours_is_inline(nobody: httpx.AsyncClient) -> None:
    console = await nobody.get("/")
    policy = console.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    assert re.findall(r"<script[^>]*>[^<]", console.text) == []
    assert re.findall(r"\son\w+=|\sstyle=|javascript:", console.text) == []


async def test_the_page_of_the_api_is_whole_and_needs_nobody_else(
    described: httpx.AsyncClient,
) -> None:
    answer = await described.get("/schema")
    assert (answer.status_code, answer.headers["content-type"]) == (
        200,
        "text/html; charset=utf-8",
    )
    document = (await described.get("/schema/openapi.json")).json()
    for path, item in document["paths"].items():
        for method in set(item) & {"get", "put", "post", "patch", "delete"}:
            assert f"{method.upper()} {path}" in answer.text
    assert "<script" not in answer.text
    assert re.findall(r"(?:src|href)=\"(?!/)", answer.text) == []
    (style,) = re.findall(r"<style>(.*?)</style>", answer.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in answer.headers["content-security-policy"]


PREFLIGHT = {"Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "x-api-key"}


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "https://photos.example.org"])
async def test_no_other_origin_may_call_unless_named(world: World, origin: str) -> None:
    caller = await world.http(Origin=origin)
    for answer in (
        await caller.options(TASKS, headers=PREFLIGHT),
        await caller.get(TASKS),
        await caller.get("/health/live"),
    ):
        assert not [name for name in answer.headers if name.startswith("access-control-")]


async def test_a_named_origin_may_call_and_no_other(world: World) -> None:
    await world.add_key("alice", "a key of alice's", "media:read")
    app = world.new_app(cors_origins="https://photos.example.org, https://b.example")
    friend = await world.http(app, Origin="https://photos.example.org")
    allowed = await friend.options(TASKS, headers=PREFLIGHT)
    assert allowed.status_code == 204
    assert allowed.headers["access-control-allow-origin"] == "https://photos.example.org"
    assert "x-api-key" in allowed.headers["access-control-allow-headers"].lower()
    answer = await friend.get(TASKS, headers={"X-API-Key": "a key of alice's"})
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "https://photos.example.org"
    assert "access-control-allow-credentials" not in answer.headers
    for origin in ("https://evil.example", "https://photos.example.org.evil.example", "null"):
        stranger = await world.http(app, Origin=origin)
        for answer in (await stranger.options(TASKS, headers=PREFLIGHT), await stranger.get(TASKS)):
            assert answer.headers.get("access-control-allow-origin") != origin
            assert answer.headers.get("access-control-allow-origin") != "*"
