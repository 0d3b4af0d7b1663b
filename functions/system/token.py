"""POST /api/v1/auth/token: client credentials for a bearer token (RFC 6749, section 4.4)."""

from __future__ import annotations

import logging
from typing import Annotated, Literal
from urllib.parse import parse_qsl

import msgspec
from litestar import Response, post
from litestar.openapi.spec import OpenAPIType, Schema
from msgspec import Meta

from functions._kit.errors import RequestError, Unauthenticated
from functions._kit.guessing import Guesses
from functions._kit.http import HttpRequest, Port, caller_of
from functions._kit.messages import Answer, Request
from functions._kit.policy import HttpPolicy
from functions._kit.ports import ClientStore, TokenIssuer
from functions._kit.secrets import verify_secret

log = logging.getLogger("nereid.security")

MAX_BODY_BYTES = 8192


class TokenRequest(Request, frozen=True, kw_only=True):
    """A client's id and secret."""

    client_id: Annotated[str, Meta(min_length=1, max_length=128)]
    client_secret: Annotated[str, Meta(min_length=1, max_length=256)]
    grant_type: Literal["client_credentials"]


class Token(Answer, frozen=True, kw_only=True):
    """A bearer token and what it allows."""

    access_token: str
    token_type: Literal["Bearer"]
    expires_in: int
    scope: str


_BODY = Schema(
    type=OpenAPIType.OBJECT,
    required=["client_id", "client_secret", "grant_type"],
    properties={
        "client_id": Schema(type=OpenAPIType.STRING),
        "client_secret": Schema(type=OpenAPIType.STRING),
        "grant_type": Schema(type=OpenAPIType.STRING, enum=["client_credentials"]),
    },
)


@post(
    "/api/v1/auth/token",
    status_code=200,
    summary="Get a bearer token",
    request_max_body_size=MAX_BODY_BYTES,
    opt={
        "policy": HttpPolicy(scope=None, concurrency=64),
        "rate_limited": True,
        "openapi_errors": ("401", "413"),
        "openapi_body": {
            "application/json": _BODY,
            "application/x-www-form-urlencoded": _BODY,
        },
    },
)
async def token(
    request: HttpRequest,
    clients: Port[ClientStore],
    tokens: Port[TokenIssuer],
    guesses: Port[Guesses],
) -> Response[Token]:
    """JSON or form. A wrong secret and an unknown id get the same answer in the same time."""
    asked = await _read(request)
    address = caller_of(request.scope)
    async with guesses.turn(asked.client_id, address):
        guesses.check(asked.client_id, address)
        client = await clients.find(asked.client_id)
        if not await verify_secret(asked.client_secret, client.secret_hash if client else None):
            guesses.wrong(asked.client_id)
            raise Unauthenticated("invalid_client", "client_id or client_secret is wrong")
        assert client is not None  # a verified secret belongs to a client
        guesses.right(client.client_id, address)
    log.info("token_issued: client %r at %s", client.client_id, address)
    return Response(
        Token(
            access_token=tokens.issue(client),
            token_type="Bearer",  # noqa: S106 - the scheme's name
            expires_in=tokens.lifetime_s,
            scope=" ".join(sorted(client.scopes)),
        ),
        headers={"Cache-Control": "no-store"},
    )


async def _read(request: HttpRequest) -> TokenRequest:
    body = await request.body()
    form = request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded")
    try:
        if form:
            pairs = dict(parse_qsl(body.decode(), strict_parsing=True))
            return msgspec.convert(pairs, TokenRequest)
        return msgspec.json.decode(body, type=TokenRequest)
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        raise RequestError(
            "invalid_request",
            f"the body must be client_id, client_secret and grant_type=client_credentials: {error}",
            field="body",
        ) from error
