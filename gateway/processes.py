"""`nereid serve` and `nereid work`: the two kinds of process that run functions."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Sequence
from contextlib import AsyncExitStack

import uvicorn
from litestar.types import ASGIApp

from gateway.asgi import create_app
from gateway.edge.origins import split
from gateway.edge.protocol import BoundedProtocol
from gateway.edge.rates import Rates
from gateway.edge.streams import with_ending_streams
from gateway.metrics.http import HttpMetrics
from gateway.metrics.listener import listening
from gateway.metrics.queues import Queues
from gateway.metrics.sickness import WaitingWorkers
from gateway.registry import Function, discover, select
from gateway.room import room_of, with_room
from gateway.runtime import Runtime, open_runtime
from gateway.serving import Server
from gateway.settings import Settings
from gateway.signals import READY, stopped_by_signals
from gateway.worker import Worker
from gateway.worker.health import Tell
from gateway.worker.metrics import WorkMetrics
from gateway.worker.sickness import SicknessReport

STOP_GRACE_S = 10
KEEP_ALIVE_S = 75
"""As nginx: a client that sends again after uvicorn's 5 s would find its connection closed."""


async def serve(settings: Settings, only: Sequence[str] = ()) -> None:
    """Answer HTTP until SIGINT or SIGTERM; open requests are finished, streams of events end."""
    async with open_runtime(settings, name="nereid-serve") as runtime:
        app = gateway_app(settings, runtime, only)
        settle()
        with stopped_by_signals() as stop:
            server = Server(http_config(settings, with_ending_streams(app, stop)))
            stopping = asyncio.create_task(_stop(server, stop))
            try:
                await server.serve()
            finally:
                stopping.cancel()


def http_config(settings: Settings, app: ASGIApp) -> uvicorn.Config:
    """How a gateway listens: bounds, TLS, and whose word is taken for a caller's address."""
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        http=BoundedProtocol,
        ws="none",
        proxy_headers=settings.trusted_proxies is not None,
        forwarded_allow_ips=split(settings.trusted_proxies),
        ssl_certfile=settings.tls_certificate,
        ssl_keyfile=settings.tls_key,
        limit_concurrency=settings.max_connections,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=STOP_GRACE_S,
        lifespan="on",
    )


def gateway_app(settings: Settings, runtime: Runtime, only: Sequence[str] = ()) -> ASGIApp:
    """What a gateway answers with: functions' routes, watched."""
    found = discover()
    app = create_app(
        [f for f in select(found, only) if f.routes],
        runtime.by_name(),
        runtime.authenticator,
        rates=Rates(
            requests_per_client=settings.requests_per_minute_per_client,
            requests_per_address=settings.requests_per_minute_per_address,
            tokens_per_address=settings.token_requests_per_minute,
            wrong_secrets_per_hour=settings.wrong_secrets_per_hour,
        ),
        cors_origins=settings.cors_origins,
    )
    queues = Queues(runtime.stream, found)
    runtime.metrics.add(queues, queues.refresh)
    runtime.metrics.add(WaitingWorkers(runtime.values, runtime.probes))
    guarded = with_room(app, room_of(settings))
    return HttpMetrics(runtime.metrics.registry).around(guarded, runtime.tracing)


def settle() -> None:
    """Leave what lives as long as the process out of all collections of garbage to come.

    Going through it, most of all libraries' modules, takes 100 ms and more, in which nobody is
    answered.
    """
    gc.collect()
    gc.freeze()


async def _stop(server: uvicorn.Server, stop: asyncio.Event) -> None:
    await stop.wait()
    server.should_exit = True


async def work(settings: Settings, only: Sequence[str] = ()) -> None:
    """Take messages until SIGINT or SIGTERM, then drain."""
    functions = [f for f in select(discover(), only) if f.consumers]
    async with open_runtime(settings, name="nereid-work") as runtime, AsyncExitStack() as stack:
        report = SicknessReport(runtime.values)
        worker = worker_of(settings, runtime, functions, report.tell)
        host, port = settings.metrics_host, settings.metrics_port
        await stack.enter_async_context(
            listening(runtime.metrics, runtime.authenticator, host, port)
        )
        await stack.enter_async_context(report.running())
        stop = stack.enter_context(stopped_by_signals())
        settle()
        ready = asyncio.Event()
        telling = asyncio.create_task(_tell(ready, [f.name for f in functions]))
        try:
            await worker.run(stop, ready)
        finally:
            telling.cancel()


def worker_of(
    settings: Settings, runtime: Runtime, functions: Sequence[Function], tell: Tell
) -> Worker:
    """What takes messages for `functions`, counted and traced."""
    return Worker(
        functions,
        runtime.by_type(),
        runtime.stream,
        {**runtime.probes, "queue": runtime.stream.whole},
        scratch=runtime.scratch,
        drain_s=settings.drain_s,
        answered={"triton": lambda: runtime.triton.answered},
        tell=tell,
        metrics=WorkMetrics(runtime.metrics.registry),
        tracing=runtime.tracing,
    )


async def _tell(ready: asyncio.Event, names: list[str]) -> None:
    await ready.wait()
    print(READY, *names, flush=True)  # noqa: T201 - what `nereid up` and people wait for
