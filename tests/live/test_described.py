"""The live system held to its OpenAPI document: every operation, by requests made from it.

A stream without end is asked for without credentials alone; bodies are small, since the sizes that
the system takes are tested where uploads are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import httpx
import pytest

from tests.describing import is_stream, operations, problems
from tests.fuzz.asked import SEED, times
from tests.live.conftest import KEY, Api, Nereid

pytestmark = pytest.mark.long

EXAMPLES = times(25, 10)
EVERY_SCOPE = (
    "media:read,media:write,frames:write,alerts:read,alerts:write,audio:write,"
    "models:read,models:write,system:read,system:write"
)
STANDS_STILL = ("/api/models/", "/api/v1/models/")
"""What would change the models that other tests of this system count on."""


@pytest.fixture(scope="module")
def everything(system: Nereid) -> Iterator[httpx.Client]:
    """A caller with every scope."""
    system.add_clients(everything=EVERY_SCOPE)
    with httpx.Client(
        headers={"X-API-Key": KEY.format("everything")}, timeout=200, trust_env=False
    ) as http:
        yield http


def sender(
    http: httpx.Client, system: Nereid
) -> Callable[[str, str, dict[str, str], bytes], httpx.Response]:
    def send(method: str, url: str, headers: dict[str, str], body: bytes) -> httpx.Response:
        there = url.replace("http://nereid.test", system.url, 1)
        return http.request(method, there, headers=headers, content=body)

    return send


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("way", ["right", "wrong", "without credentials"])
async def test_the_live_system_answers_as_described(
    system: Nereid, api: Api, everything: httpx.Client, photo: bytes, way: str
) -> None:
    known = {"task_id": (await api.run(photo))["task_id"], "camera_id": "gate"}
    parts = system.part("worker"), system.part("gateway")
    document = (await api.http.get("/schema/openapi.json")).json()
    found: list[str] = []
    with httpx.Client(timeout=200, trust_env=False) as nobody:
        send = sender(nobody if way == "without credentials" else everything, system)
        for operation in operations(document):
            streamed = is_stream(operation) and way != "without credentials"
            changes = operation.method.upper() != "GET" and operation.path.startswith(STANDS_STILL)
            if streamed or (changes and way == "right"):
                continue
            wrong = way == "wrong"
            found += problems(operation, send, examples=EXAMPLES, negative=wrong, seed=SEED)
            if way == "right" and "{" in operation.path:
                found += problems(operation, send, examples=EXAMPLES, known=known, seed=SEED)
    assert not found, "\n\n".join(found)
    assert (system.part("worker"), system.part("gateway")) == parts
    await api.run(photo)
