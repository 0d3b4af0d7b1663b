"""Who is calling: bearer tokens and API keys."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import jwt

from functions._kit.errors import TooManyRequests, Unauthenticated
from functions._kit.http import Principal
from functions._kit.ports import Client, ClientStore
from functions._kit.secrets import verify_secret
from functions._kit.throttle import Throttle
from gateway.edge.events import SecurityEvents

Finder = Callable[[], Awaitable[Principal | None]]

ALGORITHM = "HS256"
AUDIENCE = "nereid"
REMEMBER_S = 10.0
"""How long a looked-up client is believed: a removed one is out within this time."""
MAX_CREDENTIAL_BYTES = 4096
FAILURES_PER_MINUTE = 60
HOUR_S = 3600.0
MOST_REMEMBERED = 10_000


class Tokens:
    """The port `TokenIssuer`, and its other half: reading tokens."""

    def __init__(self, secret: str, lifetime_s: int, previous: str | None = None) -> None:
        """Signs with `secret`; believes what `previous` has signed, too, while secrets change."""
        self._secret = secret
        self._previous = previous
        self.lifetime_s = lifetime_s
        self._read: dict[str, tuple[float, Claims]] = {}

    def issue(self, client: Client) -> str:
        """See `TokenIssuer.issue`."""
        moment = int(time.time())
        return jwt.encode(
            {
                "sub": client.client_id,
                "aud": AUDIENCE,
                "scope": " ".join(sorted(client.scopes)),
                "row": fingerprint(client),
                "iat": moment,
                "exp": moment + self.lifetime_s,
            },
            self._secret,
            algorithm=ALGORITHM,
        )

    def is_token(self, text: str) -> bool:
        """Whether `text` has the form of a token, valid or not (RFC 7519); an API key has none."""
        if text in self._read:
            return True
        try:
            jwt.get_unverified_header(text)
        except jwt.InvalidTokenError:
            return False
        return True

    def read(self, token: str) -> Claims:
        """What a valid token claims. Raises `Unauthenticated` (code `invalid_token`).

        A signature is checked once; until the token expires, it is known then.
        """
        expires, claims = self._read.get(token, (0.0, None))
        if claims is None or expires <= time.time():
            expires, claims = self._verified(token)
            if len(self._read) >= MOST_REMEMBERED:
                self._read.clear()
            self._read[token] = expires, claims
        return claims

    def _verified(self, token: str) -> tuple[float, Claims]:
        try:
            try:
                found = self._decoded(token, self._secret)
            except jwt.InvalidSignatureError:
                if self._previous is None:
                    raise
                found = self._decoded(token, self._previous)
            scopes = frozenset(found["scope"].split())
            return float(found["exp"]), Claims(found["sub"], str(found["row"]), scopes)
        except jwt.ExpiredSignatureError as error:
            raise Unauthenticated(
                "token_expired", "the token has expired; get a new one"
            ) from error
        except (jwt.InvalidTokenError, AttributeError) as error:
            raise Unauthenticated("invalid_token", "the token is not valid") from error

    @staticmethod
    def _decoded(token: str, secret: str) -> dict[str, Any]:
        return jwt.decode(
            token,
            secret,
            algorithms=[ALGORITHM],
            audience=AUDIENCE,
            options={"require": ["sub", "exp", "aud", "scope", "row"]},
        )


@dataclass(frozen=True, slots=True)
class Claims:
    """What a token says: who, of which row of the table, and what it may do."""

    client_id: str
    row: str
    scopes: frozenset[str]


def fingerprint(client: Client) -> str:
    """Changes when a client is removed and added again: its tokens end with the row they are of."""
    return hashlib.sha256(client.secret_hash.encode()).hexdigest()[:16]


def api_key_lookup(secret: str, api_key: str) -> bytes:
    """A digest to find an API key's row by, of no use without the installation's secret."""
    return hmac.new(secret.encode(), b"api-key:" + api_key.encode(), hashlib.sha256).digest()


@dataclass(slots=True)
class Authenticator:
    """Turns the headers of a request into a principal."""

    clients: ClientStore
    tokens: Tokens
    secret: str
    previous_secret: str | None = None
    """By which API keys are found, too, that were added before the secret changed."""
    failures: Throttle = field(default_factory=lambda: Throttle(FAILURES_PER_MINUTE, 60.0))
    """Wrong API keys, by address: beyond, an address may not try further ones."""
    events: SecurityEvents = field(default_factory=SecurityEvents)
    _known: dict[bytes, tuple[float, Principal | None]] = field(default_factory=dict)
    _finding: dict[bytes, asyncio.Task[Principal | None]] = field(default_factory=dict)

    async def authenticate(self, headers: dict[str, str], address: str = "") -> Principal:
        """Raises `Unauthenticated` where neither header holds.

        An API key may come as a bearer token, too: OpenAI's clients send theirs so. Raises
        `TooManyRequests` for a key that is not known where `address` has sent many wrong ones.
        """
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if max(len(token), len(headers.get("x-api-key", ""))) > MAX_CREDENTIAL_BYTES:
            raise Unauthenticated("invalid_token", "the credential is too long to be one of ours")
        if scheme.lower() == "bearer":
            token = token.strip()
            if self.tokens.is_token(token):
                return await self._still_there(self.tokens.read(token))
            principal = await self._of_key(token, address) if token else None
            if principal is None:
                raise Unauthenticated("invalid_token", "this is neither a token nor an API key")
            return principal
        if "x-api-key" in headers:
            principal = await self._of_key(headers["x-api-key"], address)
            if principal is None:
                raise Unauthenticated("invalid_api_key", "the API key is not valid")
            return principal
        raise Unauthenticated(
            "credentials_missing",
            "send 'Authorization: Bearer TOKEN' (from POST /api/v1/auth/token) or 'X-API-Key: KEY'",
        )

    async def _still_there(self, claims: Claims) -> Principal:
        """The token's scopes, but none that the client has no more."""

        async def find() -> Principal | None:
            client = await self.clients.find(claims.client_id)
            if client is None or fingerprint(client) != claims.row:
                return None
            return Principal(client.client_id, client.scopes)

        key = b"row:" + claims.row.encode() + claims.client_id.encode()
        principal = await self._remembered(key, find)
        if principal is None:
            raise Unauthenticated("invalid_token", "the token's client has been removed")
        return Principal(principal.client_id, principal.scopes & claims.scopes)

    async def _of_key(self, api_key: str, address: str) -> Principal | None:
        key = b"key:" + api_key_lookup(self.secret, api_key)

        async def find() -> Principal | None:
            for secret in filter(None, (self.secret, self.previous_secret)):
                client = await self.clients.find_by_key(api_key_lookup(secret, api_key))
                if client is not None and await verify_secret(api_key, client.api_key_hash):
                    return Principal(client.client_id, client.scopes)
            return None

        if not self._is_known(key) and (wait_s := self.failures.wait_s(address)) > 0:
            raise TooManyRequests(
                "too_many_attempts",
                "too many wrong API keys came from this address; try again later",
                retry_after_s=math.ceil(wait_s),
            )
        looked_up = not self._is_known(key)
        principal = await self._remembered(key, find)
        if principal is None:
            self.failures.take(address)
        elif looked_up:
            self.events.tell(
                "api_key_accepted",
                client=principal.client_id,
                address=address,
                level=logging.INFO,
                quiet_s=HOUR_S,
            )
        return principal

    def _is_known(self, key: bytes) -> bool:
        known = self._known.get(key)
        return known is not None and known[0] > time.monotonic()

    async def _remembered(self, key: bytes, find: Finder) -> Principal | None:
        if self._is_known(key):
            return self._known[key][1]
        # Many requests with one key come at once, and a look-up costs 30 ms of a core (argon2).
        finding = self._finding.get(key)
        if finding is None:
            finding = self._finding[key] = asyncio.create_task(self._find(key, find))
            finding.add_done_callback(lambda _: self._finding.pop(key))
        return await asyncio.shield(finding)

    async def _find(self, key: bytes, find: Finder) -> Principal | None:
        principal = await find()
        if len(self._known) > MOST_REMEMBERED:
            self._known.clear()
        if principal is not None:
            self._known[key] = (time.monotonic() + REMEMBER_S, principal)
        else:
            self._known.pop(key, None)
        return principal
