"""Who may call from elsewhere: pages of other origins, and proxies that speak for others."""

from __future__ import annotations

import re
from ipaddress import ip_address, ip_network

ORIGIN = re.compile(r"https?://[a-z0-9.\-\[\]:]+")


def check_origins(origins: str) -> None:
    """Raise ValueError for what no browser sends as an origin, `*` among it."""
    for origin in split(origins):
        if not ORIGIN.fullmatch(origin):
            raise ValueError(
                f"cors_origins: {origin!r} must be an origin such as https://photos.example.org, "
                "in lower case and without a path; '*' is not taken"
            )


def check_proxies(proxies: str) -> None:
    """Raise ValueError for what is neither an address nor a network."""
    for proxy in split(proxies):
        try:
            ip_network(proxy) if "/" in proxy else ip_address(proxy)
        except ValueError as error:
            raise ValueError(f"trusted_proxies: {error}") from error


def split(text: str | None) -> list[str]:
    """The parts of a comma-separated setting."""
    return [part.strip() for part in (text or "").split(",") if part.strip()]
