"""How often each address and each client may call, all HTTP functions together."""

from __future__ import annotations

import math
from dataclasses import dataclass

from functions._kit.errors import TooManyRequests
from functions._kit.throttle import Throttle

MINUTE_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What the operator allows one gateway to answer; from the settings."""

    requests_per_client: int = 30_000
    """In a minute, as all but the last."""
    requests_per_address: int = 60_000
    tokens_per_address: int = 60
    wrong_secrets_per_hour: int = 100
    """For one client id, from all addresses together."""


class RateLimits:
    """Counts requests of one gateway, by the address that they come from and by the client."""

    def __init__(self, rates: Rates) -> None:
        self._addresses = Throttle(rates.requests_per_address, MINUTE_S)
        self._clients = Throttle(rates.requests_per_client, MINUTE_S)
        self._tokens = Throttle(rates.tokens_per_address, MINUTE_S)

    def of_address(self, address: str, *, token: bool) -> None:
        """Count a request, or refuse it (`TooManyRequests`); `token` for one that asks for one."""
        _check(self._addresses.take(address), "this address sends more requests")
        if token:
            _check(self._tokens.take(address), "this address asks for more tokens")

    def of_client(self, client_id: str) -> None:
        """Count a request of a known client, or refuse it (`TooManyRequests`)."""
        _check(self._clients.take(client_id), "this client sends more requests")


def _check(wait_s: float, what: str) -> None:
    if wait_s > 0:
        raise TooManyRequests(
            "too_many_requests",
            f"{what} than the operator allows; try again after Retry-After seconds",
            retry_after_s=math.ceil(wait_s),
        )
