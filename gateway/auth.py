"""Who is calling: bearer tokens and API keys."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import jwt

from functions._kit.errors import Unauthenticated
from functions._kit.http import Principal
from functions._kit.ports import Client, ClientStore
from functions._kit.secrets import verify_secret

Finder = Callable[[], Awaitable[Principal | None]]

ALGORITHM = "HS256"
AUDIENCE = "nereid"
REMEMBER_S = 10.0
"""How long a looked-up client is believed: a removed one is out within this time."""
MAX_CREDENTIAL_BYTES = 4096
MOST_REMEMBERED = 10_000


class Tokens:
    """The port `TokenIssuer`, and its other half: reading tokens."""

    def __init__(self, secret: str, lifetime_s: int) -> None:
        self._secret = secret
        self.lifetime_s = lifetime_s
        self._read: dict[str, tuple[float, Principal]] = {}

    def issue(self, client: Client) -> str:
        """See `TokenIssuer.issue`."""
        moment = int(time.time())
        return jwt.encode(
            {
                "sub": client.client_id,
                "aud": AUDIENCE,
                "scope": " ".join(sorted(client.scopes)),
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

    def read(self, token: str) -> Principal:
        """The principal of a valid token. Raises `Unauthenticated` (code `invalid_token`).

        A signature is checked once; until the token expires, it is known then.
        """
        expires, principal = self._read.get(token, (0.0, None))
        if principal is None or expires <= time.time():
            expires, principal = self._verified(token)
            if len(self._read) >= MOST_REMEMBERED:
                self._read.clear()
            self._read[token] = expires, principal
        return principal

    def _verified(self, token: str) -> tuple[float, Principal]:
        try:
            claims = jwt.decode(
                token,
                self._secret,
                algorithms=[ALGORITHM],
                audience=AUDIENCE,
                options={"require": ["sub", "exp", "aud"]},
            )
            scopes = frozenset(str(claims.get("scope", "")).split())
            return float(claims["exp"]), Principal(claims["sub"], scopes)
        except jwt.ExpiredSignatureError as error:
            raise Unauthenticated(
                "token_expired", "the token has expired; get a new one"
            ) from error
        except jwt.InvalidTokenError as error:
            raise Unauthenticated("invalid_token", "the token is not valid") from error


def api_key_lookup(secret: str, api_key: str) -> bytes:
    """A digest to find an API key's row by, of no use without the installation's secret."""
    return hmac.new(secret.encode(), b"api-key:" + api_key.encode(), hashlib.sha256).digest()


@dataclass(slots=True)
class Authenticator:
    """Turns the headers of a request into a principal."""

    clients: ClientStore
    tokens: Tokens
    secret: str
    _known: dict[bytes, tuple[float, Principal | None]] = field(default_factory=dict)
    _finding: dict[bytes, asyncio.Task[Principal | None]] = field(default_factory=dict)

    async def authenticate(self, headers: dict[str, str]) -> Principal:
        """Raises `Unauthenticated` where neither header holds.

        An API key may come as a bearer token, too: OpenAI's clients send theirs so.
        """
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if max(len(token), len(headers.get("x-api-key", ""))) > MAX_CREDENTIAL_BYTES:
            raise Unauthenticated("invalid_token", "the credential is too long to be one of ours")
        if scheme.lower() == "bearer":
            token = token.strip()
            if self.tokens.is_token(token):
                return await self._still_there(self.tokens.read(token))
            principal = await self._of_key(token) if token else None
            if principal is None:
                raise Unauthenticated("invalid_token", "this is neither a token nor an API key")
            return principal
        if "x-api-key" in headers:
            principal = await self._of_key(headers["x-api-key"])
            if principal is None:
                raise Unauthenticated("invalid_api_key", "the API key is not valid")
            return principal
        raise Unauthenticated(
            "credentials_missing",
            "send 'Authorization: Bearer TOKEN' (from POST /api/v1/auth/token) or 'X-API-Key: KEY'",
        )

    async def _still_there(self, principal: Principal) -> Principal:
        async def find() -> Principal | None:
            return principal if await self.clients.find(principal.client_id) else None

        if await self._remembered(b"id:" + principal.client_id.encode(), find) is None:
            raise Unauthenticated("invalid_token", "the token's client has been removed")
        return principal

    async def _of_key(self, api_key: str) -> Principal | None:
        lookup = api_key_lookup(self.secret, api_key)

        async def find() -> Principal | None:
            client = await self.clients.find_by_key(lookup)
            if client is None or not await verify_secret(api_key, client.api_key_hash):
                return None
            return Principal(client.client_id, client.scopes)

        return await self._remembered(b"key:" + lookup, find)

    async def _remembered(self, key: bytes, find: Finder) -> Principal | None:
        known = self._known.get(key)
        if known is not None and known[0] > time.monotonic():
            return known[1]
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
