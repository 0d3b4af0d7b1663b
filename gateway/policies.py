"""Holds every HTTP handler to its policy: who, how many at once, how long."""

from __future__ import annotations

import asyncio

from litestar.datastructures import Headers
from litestar.enums import HttpMethod, ScopeType
from litestar.handlers import HTTPRouteHandler
from litestar.middleware import ASGIMiddleware
from litestar.types import ASGIApp, Receive, RouteHandlerType, Scope, Send

from functions._kit.errors import Forbidden, TooManyRequests, Unavailable
from functions._kit.http import caller_of
from functions._kit.policy import HttpPolicy
from gateway.auth import Authenticator
from gateway.edge.rates import RateLimits

DOCUMENTATION = HttpPolicy(scope=None)
"""The policy of the API's own documentation, the only routes that are not functions."""


class PolicyMiddleware(ASGIMiddleware):
    """Counts the request, authenticates, checks the scope, takes a slot, sets the deadline."""

    scopes = (ScopeType.HTTP,)

    def __init__(self, authenticator: Authenticator, limits: RateLimits) -> None:
        self._authenticator = authenticator
        self._limits = limits
        self._running: dict[str, int] = {}

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        """Raises `Unauthenticated`, `Forbidden`, `TooManyRequests`, or `Unavailable`."""
        handler = scope["route_handler"]
        policy = _policy_of(handler, scope)
        address = caller_of(scope)
        self._limits.of_address(address, token=bool(handler.opt.get("rate_limited")))
        if policy.scope is not None:
            headers = dict(Headers.from_scope(scope))
            scope["user"] = principal = await self._authenticator.authenticate(headers, address)
            self._limits.of_client(principal.client_id)
            if principal.scopes.isdisjoint(policy.any_of):
                wanted = " or ".join(map(repr, policy.any_of))
                raise Forbidden("scope_missing", f"this needs the scope {wanted}", field="scope")
        name = str(handler)
        if isinstance(handler, HTTPRouteHandler):
            name = handler.handler_name
        if self._running.get(name, 0) >= policy.concurrency:
            raise _busy(policy)
        self._running[name] = self._running.get(name, 0) + 1
        try:
            async with asyncio.timeout(policy.timeout_s):
                await next_app(scope, receive, send)
        except TimeoutError as error:
            raise Unavailable(
                "function", f"no answer within {policy.timeout_s} s; try again later"
            ) from error
        finally:
            self._running[name] -= 1


def _policy_of(handler: RouteHandlerType, scope: Scope) -> HttpPolicy:
    """What has no policy is for nobody, but for the answers to OPTIONS, which Litestar adds."""
    policy = handler.opt.get("policy")
    if isinstance(policy, HttpPolicy):
        return policy
    if scope["type"] == ScopeType.HTTP and scope["method"] == HttpMethod.OPTIONS:
        return DOCUMENTATION
    raise Forbidden("no_policy", "this route has no policy, so nobody may use it")


def _busy(policy: HttpPolicy) -> TooManyRequests | Unavailable:
    message = f"{policy.concurrency} requests of this kind run already; try again later"
    if policy.busy_status == 429:
        return TooManyRequests("too_many_requests", message, retry_after_s=_Busy.retry_after_s)
    return _Busy(message)


class _Busy(Unavailable):
    retry_after_s = 1

    def __init__(self, message: str) -> None:
        super().__init__("function", message)
        self.code = "busy"
