"""Errors as `application/problem+json` (RFC 9457) with a stable `code`.

Below `/v1/`, where we speak OpenAI's API, the document holds OpenAI's error object, too.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from http import HTTPStatus
from inspect import unwrap
from typing import Any, get_type_hints

from litestar import Response
from litestar.exceptions import HTTPException, ValidationException
from litestar.params import HeaderParameter, QueryParameter
from litestar.types import ExceptionHandlersMap

from functions._kit.errors import NereidError, RequestError, TooManyRequests, Unavailable
from functions._kit.http import HttpRequest

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
OPENAI_PATHS = "/v1/"
OPENAI_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
"""The word for any other status is `invalid_request_error` or `server_error`."""
DISCONNECTED = "client disconnected prematurely"
"""Litestar's word for it, in `Request.stream`."""
BACKENDS = {
    "queue": "the queue",
    "s3": "the store of files",
    "database": "the database",
    "triton": "the model server",
}
CODES = {
    400: "invalid_request",
    401: "unauthenticated",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    413: "body_too_large",
    415: "unsupported_media_type",
    429: "too_many_requests",
}


def problem(
    request: HttpRequest,
    status: int,
    code: str,
    detail: str,
    *,
    headers: dict[str, str] | None = None,
    **extra: Any,
) -> Response[dict[str, Any]]:
    """A problem document; `extra` members that are None are left out."""
    if request.scope["path"].startswith(OPENAI_PATHS):
        if status in {415, 422}:
            status = 400  # OpenAI's API knows no other status for a request that cannot be met
        extra["error"] = openai_error(status, code, detail, extra.get("field"))
    body = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "code": code,
        "detail": detail,
        **{name: value for name, value in extra.items() if value is not None},
    }
    return Response(body, status_code=status, media_type=MEDIA_TYPE, headers=headers or {})


def openai_error(status: int, code: str, detail: str, field: str | None) -> dict[str, Any]:
    """What OpenAI's clients read of an error."""
    other = "server_error" if status >= 500 else "invalid_request_error"
    kind = OPENAI_TYPES.get(status, other)
    return {"message": detail, "type": kind, "param": field, "code": code}


def _ours(request: HttpRequest, error: NereidError) -> Response[dict[str, Any]]:
    headers: dict[str, str] = {}
    if isinstance(error, Unavailable | TooManyRequests):
        headers["Retry-After"] = str(error.retry_after_s)
    if isinstance(error, RequestError):
        if error.status == 401:
            headers["WWW-Authenticate"] = 'Bearer realm="nereid"'
        return problem(
            request, error.status, error.code, error.message, headers=headers, field=error.field
        )
    if isinstance(error, Unavailable):
        log.warning("%s: %s", error.code, error.message)
        return problem(request, 503, error.code, _told(error), headers=headers)
    return problem(request, 422, error.code, error.message)


def _told(error: Unavailable) -> str:
    """What a library said names servers, addresses and users of ours: that is for the log alone."""
    if error.__cause__ is None:
        return error.message
    name = BACKENDS.get(error.backend, "a part of the system")
    return f"{name} does not serve us now; try again after Retry-After seconds"


def _invalid(request: HttpRequest, error: ValidationException) -> Response[dict[str, Any]]:
    """What Litestar and msgspec found wrong, each with its field and rule."""
    names = _given_names(request)
    errors = [
        {"field": _field(item, names), "message": item["message"]}
        for item in (error.extra if isinstance(error.extra, list) else [])
        if isinstance(item, dict) and "message" in item
    ]
    rules = "; ".join(f"{item['field']}: {item['message']}" for item in errors) or error.detail
    return problem(
        request,
        422,
        "invalid_request",
        _short(rules),
        field=str(errors[0]["field"]) if errors else _missing(error.detail),
        errors=errors or None,
    )


def _field(item: dict[str, Any], names: Mapping[str, str]) -> str:
    """The caller's name for what Litestar names by our parameter."""
    name = str(item.get("key") or item.get("source") or "body")
    return "body" if name == "data" else names.get(name, name)


def _given_names(request: HttpRequest) -> dict[str, str]:
    """Parameters of the handler that callers know by another name, such as `from`."""
    hints = get_type_hints(unwrap(request.route_handler.fn), include_extras=True)
    return {
        name: str(mark.name)
        for name, hint in hints.items()
        for mark in getattr(hint, "__metadata__", ())
        if isinstance(mark, QueryParameter | HeaderParameter) and mark.name
    }


def _missing(detail: str) -> str | None:
    """The parameter in Litestar's sentence about one that is required and not there."""
    found = re.match(r"Missing required \w+ parameter '([^']+)'", detail)
    return found[1] if found else None


def _http(request: HttpRequest, error: HTTPException) -> Response[dict[str, Any]]:
    status = error.status_code
    if error.detail == DISCONNECTED:  # nobody hears this; it keeps the log of our own errors clean
        return problem(
            request, 400, "body_cut_short", "the connection closed before the body ended"
        )
    if status >= 500:
        return _unexpected(request, error)
    detail = {
        404: "there is nothing at this path; GET /schema lists what there is",
        405: f"{request.method} is not allowed here",
    }.get(status, _short(error.detail))
    headers = dict(error.headers or {})
    if status == 429:
        headers["Retry-After"] = headers.get("RateLimit-Reset", "60")
    return problem(request, status, CODES.get(status, "invalid_request"), detail, headers=headers)


def _too_deep(request: HttpRequest, error: RecursionError) -> Response[dict[str, Any]]:
    """Msgspec's word for a body of thousands of brackets within each other."""
    if "deserializing" not in str(error):
        return _unexpected(request, error)
    return problem(request, 400, "invalid_request", "the body is nested too deeply", field="body")


def _unexpected(request: HttpRequest, error: Exception) -> Response[dict[str, Any]]:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return problem(request, 500, "internal_error", "an error of ours; it has been logged")


def _short(text: str, limit: int = 500) -> str:
    return text if len(text) <= limit else text[:limit] + "..."


HANDLERS: ExceptionHandlersMap = {
    NereidError: _ours,
    ValidationException: _invalid,
    HTTPException: _http,
    RecursionError: _too_deep,
    Exception: _unexpected,
}
