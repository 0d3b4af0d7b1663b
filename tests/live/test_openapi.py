"""The API's own description, against the functions and against its answers."""

from __future__ import annotations

from typing import Any

import httpx
import pytest_asyncio

from gateway.registry import discover
from tests.live.conftest import Api

TASKS = "/api/v1/media/processingTasks"
UNKNOWN = "0192f0c1-2345-7000-8000-000000000000"


@pytest_asyncio.fixture
async def document(nobody: httpx.AsyncClient) -> dict[str, Any]:
    answer = await nobody.get("/schema/openapi.json")
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    return found


def references(node: Any) -> set[str]:
    """Every $ref below `node`."""
    if isinstance(node, list):
        return set().union(*map(references, node))
    if isinstance(node, dict):
        own = {str(node["$ref"])} if "$ref" in node else set()
        return own.union(*map(references, node.values()))
    return set()


def operations(document: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (method.upper(), path): operation
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if method in {"get", "post", "put", "patch", "delete"}
    }


async def test_every_function_is_described_and_nothing_else(document: dict[str, Any]) -> None:
    routes = {
        (method, path.replace(":str}", "}") + route.opt.get("openapi_suffix", ""))
        for function in discover()
        for route in function.routes
        for path in route.paths
        for method in route.http_methods - {"OPTIONS", "HEAD"}
    }
    assert set(operations(document)) == routes
    assert ("POST", TASKS + "/{task_id}:cancel") in routes
    assert all(item for item in document["paths"].values())


async def test_the_description_holds_together(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.")
    for reference in references(document):
        node: Any = document
        for step in reference.removeprefix("#/").split("/"):
            node = node[step.replace("~1", "/").replace("~0", "~")]
    schemes = document["components"]["securitySchemes"]
    found = operations(document)
    identifiers = [operation["operationId"] for operation in found.values()]
    assert len(set(identifiers)) == len(identifiers)
    for (method, path), operation in found.items():
        assert operation["summary"], path
        named = {part.partition("}")[0] for part in path.split("{")[1:]}
        inside = [p for p in operation.get("parameters", []) if p["in"] == "path"]
        assert {parameter["name"] for parameter in inside} == named
        assert all(parameter["required"] for parameter in inside)
        for requirement in operation["security"]:
            assert set(requirement) <= set(schemes)
        assert any(status.startswith("2") for status in operation["responses"]), (method, path)
    public = {path for (_, path), o in found.items() if not o["security"]}
    page = {"/", "/console/{name}"}
    assert public == page | {"/api/v1/auth/token", "/health/live", "/health/ready"}


async def test_answers_are_as_described(
    document: dict[str, Any], api: Api, nobody: httpx.AsyncClient, photo: bytes
) -> None:
    task_id = (await api.run(photo))["task_id"]
    found = operations(document)
    process = {"file_path": "nothing.jpg", "workflow": "nas-photo-processing"}
    path = await api.upload(photo)
    events = {"Last-Event-ID": "99999999999999999999999"}
    calls: list[tuple[str, str, str, dict[str, Any], int]] = [
        ("GET", "/health/live", "/health/live", {}, 200),
        ("GET", "/health/ready", "/health/ready", {}, 200),
        ("POST", "/api/v1/auth/token", "/api/v1/auth/token", {"json": {}}, 400),
        ("POST", "/api/v1/media", "/api/v1/media", {"content": photo}, 201),
        ("POST", "/api/v1/media", "/api/v1/media", {"content": b"text"}, 415),
        ("POST", "/api/v1/media:process", "/api/v1/media:process", {"json": process}, 404),
        (
            "POST",
            "/api/v1/media:process",
            "/api/v1/media:process",
            {"json": process | {"file_path": path}},
            202,
        ),
        ("GET", TASKS, TASKS, {"params": {"status": "completed"}}, 200),
        ("GET", TASKS, TASKS, {"params": {"status": "dancing"}}, 422),
        ("GET", TASKS, TASKS, {"params": {"cursor": "x"}}, 400),
        ("GET", TASKS + "/{task_id}", f"{TASKS}/{task_id}", {}, 200),
        ("GET", TASKS + "/{task_id}", f"{TASKS}/{UNKNOWN}", {}, 404),
        ("GET", TASKS + "/{task_id}/events", f"{TASKS}/{task_id}/events", {}, 200),
        (
            "GET",
            TASKS + "/{task_id}/events",
            f"{TASKS}/{task_id}/events",
            {"headers": events},
            204,
        ),
        ("POST", TASKS + "/{task_id}:cancel", f"{TASKS}/{task_id}:cancel", {}, 409),
        ("POST", TASKS + "/{task_id}:cancel", f"{TASKS}/{UNKNOWN}:cancel", {}, 404),
    ]
    for method, template, url, options, status in calls:
        answer = await api.http.request(method, url, **options)
        assert answer.status_code == status, (method, url, answer.text)
        described = found[method, template]["responses"]
        assert str(status) in described, (method, template)
        if status != 204:
            kind = answer.headers["content-type"].partition(";")[0]
            assert kind in described[str(status)]["content"], (method, template, status)
    for (method, template), operation in found.items():
        if operation["security"]:
            refused = await nobody.request(method, template.replace("{task_id}", UNKNOWN))
            assert refused.status_code == 401
            assert "401" in operation["responses"]


async def test_the_pages_for_people_need_no_credentials(nobody: httpx.AsyncClient) -> None:
    answer = await nobody.get("/schema")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
