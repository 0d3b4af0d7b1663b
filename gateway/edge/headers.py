"""Headers that keep browsers from doing with an answer what it was not made for."""

from __future__ import annotations

from litestar.config.cors import CORSConfig
from litestar.datastructures import MutableScopeHeaders
from litestar.types import Message, Scope

from gateway.edge.documentation import STYLE_HASH
from gateway.edge.origins import split

POLICY = (
    f"default-src 'none'; style-src 'sha256-{STYLE_HASH}'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""For every answer but the console's, which brings its own: nothing but the schema page's style."""
DEFAULTS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
YEAR_S = 365 * 24 * 3600
STRICT_TRANSPORT = f"max-age={YEAR_S}; includeSubDomains"


async def secure(message: Message, scope: Scope) -> None:
    """A hook of Litestar's, before each message is sent: a handler's own header stays."""
    if message["type"] != "http.response.start":
        return
    headers = MutableScopeHeaders.from_message(message)
    for name, value in DEFAULTS.items():
        headers.setdefault(name, value)
    if scope.get("scheme") == "https":
        headers.setdefault("strict-transport-security", STRICT_TRANSPORT)


def cors(origins: str | None) -> CORSConfig | None:
    """Pages of the comma-separated `origins` may call; None, where there are none, means nobody.

    Credentials are headers here and never cookies, so a browser need not send any of its own.
    """
    named = split(origins)
    if not named:
        return None
    return CORSConfig(
        allow_origins=named,
        allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
        allow_headers=["Authorization", "X-API-Key", "Content-Type", "Idempotency-Key",
                       "Last-Event-ID"],
        allow_credentials=False,
        expose_headers=["Location", "Retry-After"],
        max_age=600,
    )  # fmt: skip
