"""The HTTP side: functions' routes in one Litestar app. No globals: a test may have two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from litestar import Litestar
from litestar.config.app import AppConfig
from litestar.di import Provide
from litestar.middleware.rate_limit import RateLimitConfig
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.plugins import ScalarRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme
from litestar.types import ControllerRouterHandler

from functions._kit.http import HttpRequest, Principal
from gateway.auth import Authenticator
from gateway.openapi import complete
from gateway.policies import PolicyMiddleware
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
    token_requests_per_minute: int = 60,
    **options: Any,
) -> Litestar:
    """An app of the HTTP handlers of `functions`.

    `ports` are handed to handlers by parameter name. `options` go to Litestar (lifespan, debug).
    """
    routes: list[ControllerRouterHandler] = []
    for function in functions:
        for route in function.routes:
            route.tags = [function.name.partition(".")[0]]
            route.opt["function"] = function.name
            routes.append(route)
    limiter = RateLimitConfig(
        rate_limit=("minute", token_requests_per_minute),
        check_throttle_handler=_is_rate_limited,
        store="token_requests",
    )
    app = Litestar(
        route_handlers=routes,
        dependencies={
            **{name: _given(port) for name, port in ports.items()},
            "principal": Provide(_principal),
        },
        middleware=[limiter.middleware, PolicyMiddleware(authenticator)],
        exception_handlers=HANDLERS,
        request_max_body_size=MAX_BODY_BYTES,
        openapi_config=OpenAPIConfig(
            title="Nereid",
            version=VERSION,
            description="Self-hosted media AI. Errors are application/problem+json (RFC 9457).",
            render_plugins=[ScalarRenderPlugin()],
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


async def _is_rate_limited(request: HttpRequest) -> bool:
    return bool(request.route_handler.opt.get("rate_limited"))


def _quiet(config: AppConfig) -> AppConfig:
    config.logging_config = None  # the process configures logging, not the app
    return config
