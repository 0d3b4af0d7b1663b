"""Makes the OpenAPI document complete: security, error answers, streamed bodies, `:verb` paths."""

from __future__ import annotations

from typing import Any

from litestar import Litestar
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.spec import (
    OpenAPIMediaType,
    OpenAPIResponse,
    OpenAPIType,
    Operation,
    PathItem,
    RequestBody,
    Schema,
)

from functions._kit.policy import HttpPolicy
from gateway.problems import MEDIA_TYPE

PROBLEM = Schema(
    type=OpenAPIType.OBJECT,
    required=["type", "title", "status", "code", "detail"],
    properties={
        "type": Schema(type=OpenAPIType.STRING),
        "title": Schema(type=OpenAPIType.STRING),
        "status": Schema(type=OpenAPIType.INTEGER),
        "code": Schema(type=OpenAPIType.STRING, description="stable; for programs"),
        "detail": Schema(type=OpenAPIType.STRING, description="a sentence; for people"),
        "field": Schema(type=OpenAPIType.STRING, description="the part that broke the rule"),
        "error": Schema(type=OpenAPIType.OBJECT, description="OpenAI's form of it, below /v1/"),
        "errors": Schema(
            type=OpenAPIType.ARRAY,
            items=Schema(
                type=OpenAPIType.OBJECT,
                properties={
                    "field": Schema(type=OpenAPIType.STRING),
                    "message": Schema(type=OpenAPIType.STRING),
                },
            ),
        ),
    },
)
PUBLIC_ERRORS = {
    "400": "The request cannot be read",
    "422": "Understood, and not possible",
    "429": "Too many requests; see Retry-After",
    "503": "A backend is away, or the queue or a disk is full; see Retry-After",
}
ERRORS = PUBLIC_ERRORS | {
    "401": "No credentials, or ones that do not hold",
    "403": "The scope is missing",
    "404": "Absent, or another client's",
    "409": "Against what is already so",
    "413": "More bytes than the limit",
    "415": "Content of a type that no function reads",
}


def complete(app: Litestar) -> None:
    """Change the app's OpenAPI document in place."""
    document = app.openapi_schema
    for route in app.routes:
        for handler in getattr(route, "route_handlers", []):
            item = (document.paths or {}).get(route.path_format)
            if isinstance(handler, HTTPRouteHandler) and item is not None:
                for method in handler.http_methods:
                    operation = getattr(item, method.lower(), None)
                    if operation is not None:
                        _complete_operation(operation, handler)
    document.paths = _with_verbs(app, dict(document.paths or {}))


def _complete_operation(operation: Operation, handler: HTTPRouteHandler) -> None:
    policy = handler.opt.get("policy")
    public = not isinstance(policy, HttpPolicy) or policy.scope is None
    operation.security = [] if public else [{"bearer": []}, {"api_key": []}]
    if not public:
        scopes = " or ".join(f"`{scope}`" for scope in policy.any_of)  # type: ignore[union-attr]
        operation.description = f"{operation.description or ''}\n\nScope: {scopes}".strip()
    operation.responses = dict(operation.responses or {})
    own = {status: ERRORS[status] for status in handler.opt.get("openapi_errors", ())}
    for status, text in (PUBLIC_ERRORS | own if public else ERRORS).items():
        operation.responses[status] = OpenAPIResponse(
            description=text, content={MEDIA_TYPE: OpenAPIMediaType(schema=PROBLEM)}
        )
    for media, schema in handler.opt.get("openapi_answers", {}).items():
        answer = operation.responses["200"]
        assert isinstance(answer, OpenAPIResponse)
        answer.content = {**(answer.content or {}), media: OpenAPIMediaType(schema=schema)}
    body = handler.opt.get("openapi_body")
    if body is not None:
        operation.request_body = RequestBody(
            required=True,
            content={media: OpenAPIMediaType(schema=schema) for media, schema in body.items()},
        )


def _with_verbs(app: Litestar, paths: dict[str, PathItem]) -> dict[str, Any]:
    """Litestar has no `{id}:verb` segment, so such handlers cut the verb off the id themselves."""
    for route in app.routes:
        for handler in getattr(route, "route_handlers", []):
            suffix = getattr(handler, "opt", {}).get("openapi_suffix")
            item = paths.get(route.path_format)
            if suffix is None or item is None:
                continue
            moved = PathItem()
            for method in handler.http_methods:
                setattr(moved, method.lower(), getattr(item, method.lower()))
                setattr(item, method.lower(), None)
            paths[route.path_format + suffix] = moved
    return paths
