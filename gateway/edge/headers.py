"""Headers that keep browsers from doing with an answer what it was not made for."""

from __future__ import annotations

from litestar.datastructures import MutableScopeHeaders
from litestar.types import Message, Scope

from gateway.edge.documentation import STYLE_HASH

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
