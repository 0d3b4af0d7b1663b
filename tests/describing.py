"""Requests made from the OpenAPI document, and its rules for answers, by schemathesis."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import hypothesis
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import APIOperation, Case, GenerationMode
from schemathesis.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from schemathesis.core.failures import AcceptedNegativeData, Failure, FailureGroup

CHECKS = [
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
Operation = APIOperation[Any, Any, Any, Any]
STREAMED = "text/event-stream"
READY = "/health/ready"
BUSY = {"busy", "queue_full", "storage_full", "too_many_connections"}
"""Codes of 503, beside those of backends that are away."""
Send = Callable[[str, str, dict[str, str], bytes], httpx.Response]
"""Sends a method, a URL, headers and a body."""


def operations(document: dict[str, Any]) -> Iterator[Operation]:
    """Every operation of the document."""
    schema = schemathesis.openapi.from_dict(document)
    for found in schema.get_all_operations():
        operation: Operation = found.ok()  # type: ignore[union-attr]  # else the document is broken
        yield operation


def is_stream(operation: Operation) -> bool:
    """Whether its answer has no end: such are tested where they are read as they come."""
    answers = operation.definition.raw.get("responses", {})
    return STREAMED in answers.get("200", {}).get("content", {})


def problems(
    operation: Operation,
    send: Send,
    *,
    examples: int,
    seed: int | None = None,
    known: dict[str, str] | None = None,
    negative: bool = False,
) -> list[str]:
    """What is wrong with the answers to so many requests; `known` are ids that there are."""
    mode = GenerationMode.NEGATIVE if negative else GenerationMode.POSITIVE
    given_ids = {
        name: value for name, value in (known or {}).items() if f"{{{name}}}" in operation.path
    }
    found: dict[str, str] = {}

    @settings(
        max_examples=examples,
        derandomize=seed is None,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(data=st.data())
    def run(data: st.DataObject) -> None:
        case = data.draw(operation.as_strategy(mode, path_parameters=given_ids or None))
        answer = sent(case, send)
        for problem in wrong(case, answer, negative=negative):
            found.setdefault(problem.partition("\n")[0], problem)

    if seed is not None:
        run = hypothesis.seed(seed)(run)
    try:
        run()
    except Exception as error:
        if "Unsatisfiable" not in type(error).__name__:
            raise
        if not negative:  # where nothing is asked for, nothing can be wrong
            found["unsatisfiable"] = f"no request can be made from its description: {error}"
    return [f"{operation.label}: {problem}" for problem in found.values()]


def sent(case: Case[Any], send: Send) -> httpx.Response:
    """The answer to the case."""
    arguments = case.as_transport_kwargs(base_url="http://nereid.test")
    arguments.pop("cookies", None)
    prepared = requests.Request(**arguments).prepare()
    body = prepared.body or b""
    assert prepared.method is not None
    assert prepared.url is not None
    return send(
        prepared.method,
        prepared.url,
        {name: str(value) for name, value in prepared.headers.items()},
        body.encode() if isinstance(body, str) else bytes(body),  # type: ignore[arg-type]
    )


def is_documented_503(case: Case[Any], answer: httpx.Response) -> bool:
    """Of health, or one that says when to come back, and by its code why."""
    if answer.status_code != 503:
        return False
    if case.operation.path == READY:
        return True
    told = answer.headers.get("Retry-After", "")
    is_json = "json" in answer.headers.get("content-type", "")
    code = str(answer.json().get("code", "")) if is_json else ""
    return told.isdigit() and (code in BUSY or code.endswith("_unavailable"))


def wrong(case: Case[Any], answer: httpx.Response, *, negative: bool) -> Iterator[str]:
    """How the answer breaks the document."""
    if answer.status_code >= 500 and not is_documented_503(case, answer):
        yield f"{answer.status_code}: {answer.text[:400]}\n{case.as_curl_command()[:600]}"
        return
    checks = [*CHECKS, negative_data_rejection] if negative else CHECKS
    failures: list[Failure] = []
    try:
        case.validate_response(answer, checks=checks)
    except FailureGroup as group:
        failures = [one for one in group.exceptions if isinstance(one, Failure)]
    for failure in failures:
        # an array or null in a query is text like any other by the time that it arrives
        if not isinstance(failure, AcceptedNegativeData) or "- body" in failure.message:
            yield f"{failure!r}"[:1200]
