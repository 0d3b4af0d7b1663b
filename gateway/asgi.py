"""The HTTP side: functions' routes in one Litestar app. No globals: a test may have two."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from litestar import Litestar, Router
from litestar.config.app import AppConfig
from litestar.di import Provide
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.spec import Components, SecurityScheme
from litestar.types import ControllerRouterHandler, Scope

from functions._kit.errors import RequestError
from functions._kit.guessing import Guesses
from functions._kit.http import HttpRequest, Principal, caller_of
from gateway.auth import Authenticator
from gateway.edge.documentation import PlainPage
from gateway.edge.events import SecurityEvents
from gateway.edge.headers import cors, secure
from gateway.edge.rates import RateLimits, Rates
from gateway.openapi import complete
from gateway.policies import DOCUMENTATION, PolicyMiddleware
from gateway.problems import HANDLERS
from gateway.registry import Function

VERSION = "0.1.0"
MAX_BODY_BYTES = 1 << 20
"""Bodies are read whole; a function that takes larger ones streams them and counts itself."""


def create_app(
    functions: Sequence[Function],
    ports: Mapping[str, Any],
    authenticator: Authenticator,
    *,
    rates: Rates | None = None,
    cors_origins: str | None = None,
    **options: Any,
) -> Litestar:
    """An app of the HTTP handlers of `functions`.

    `ports` are handed to handlers by parameter name. `options` go to Litestar (lifespan, debug).
    """
    rates = rates or Rates()
    routes: list[ControllerRouterHandler] = []
    for function in functions:
        for route in function.routes:
            route.tags = [function.name.partition(".")[0]]
            route.opt["function"] = function.name
            routes.append(route)
    app = Litestar(
        route_handlers=routes,
        dependencies={
            **{name: _given(port) for name, port in ports.items()},
            "principal": Provide(_principal),
            "guesses": _given(Guesses(rates.wrong_secrets_per_hour)),
        },
        middleware=[PolicyMiddleware(authenticator, RateLimits(rates))],
        exception_handlers=HANDLERS,
        after_exception=[_told(authenticator.events)],
        before_send=[secure],
        cors_config=cors(cors_origins),
        request_max_body_size=MAX_BODY_BYTES,
        openapi_config=OpenAPIConfig(
            title="Nereid",
            version=VERSION,
            description="Self-hosted media AI. Errors are application/problem+json (RFC 9457).",
            render_plugins=[PlainPage()],
            openapi_router=Router(
                "/schema",
                route_handlers=[],
                include_in_schema=False,
                opt={"policy": DOCUMENTATION},
            ),
            components=Components(
                security_schemes={
                    "bearer": SecurityScheme(type="http", scheme="bearer"),
                    "api_key": SecurityScheme(
                        type="apiKey", name="X-API-Key", security_scheme_in="header"
                    ),
                }
            ),
        ),
        on_app_init=[_quiet],
        **options,
    )
    complete(app)
    return app


def _given(port: Any) -> Provide:
    async def provide() -> Any:
        return port

    return Provide(provide)


async def _principal(request: HttpRequest) -> Principal:
    principal: Principal = request.scope["user"]
    return principal


def _told(events: SecurityEvents) -> Callable[[Exception, Scope], Awaitable[None]]:
    """A hook of Litestar's that writes who was refused: 401, 403 and 429."""

    async def tell(error: Exception, scope: Scope) -> None:
        if isinstance(error, RequestError) and error.status in {401, 403, 429}:
            user = scope.get("user")
            client = user.client_id if isinstance(user, Principal) else None
            events.tell(error.code, client=client, address=caller_of(scope))

    return tell


def _quiet(config: AppConfig) -> AppConfig:
    config.logging_config = None  # the process configures logging, not the app
    return config
