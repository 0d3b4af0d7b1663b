"""Sends spans to a collector by OTLP over HTTP, beside the work: whatever fails there is logged."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

from functions._kit.messages import new_id
from gateway.tracing.endpoint import parse_headers, traces_url
from gateway.tracing.spans import OpenTelemetryTracing

log = logging.getLogger(__name__)

EXPORT_TIMEOUT_S = 5.0
FLUSH_S = 5.0
"""The last spans may take so long; what is not sent by then is lost, and the process ends."""


@asynccontextmanager
async def exporting(
    endpoint: str, *, headers: str | None, ratio: float, service: str, version: str
) -> AsyncIterator[OpenTelemetryTracing]:
    """Send what is traced within the block. Raises `SettingsError`."""
    exporter = OTLPSpanExporter(
        endpoint=traces_url(endpoint), headers=parse_headers(headers), timeout=EXPORT_TIMEOUT_S
    )
    provider = TracerProvider(
        # a caller's decision holds, else so many of all traces are kept, whole
        sampler=ParentBased(TraceIdRatioBased(ratio)),
        resource=Resource.create(
            {
                "service.namespace": "nereid",
                "service.name": service,
                "service.version": version,
                "service.instance.id": new_id(),
            }
        ),
        shutdown_on_exit=False,
    )
    provider.add_span_processor(BatchSpanProcessor(exporter))
    try:
        yield OpenTelemetryTracing(provider, version)
    finally:
        if not await _shut_down(provider):
            log.warning("the last spans were not sent within %s s", FLUSH_S)
            exporter.shutdown()  # type: ignore[no-untyped-call]  # it would go on trying


async def _shut_down(provider: TracerProvider) -> bool:
    """Send what is left, for `FLUSH_S`: the library would wait for half a minute, and block."""
    loop, done = asyncio.get_running_loop(), asyncio.Event()

    def shut_down() -> None:
        provider.shutdown()
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(done.set)

    # not the loop's executor, whose threads are waited for without end
    threading.Thread(target=shut_down, daemon=True).start()
    with suppress(TimeoutError):
        async with asyncio.timeout(FLUSH_S):
            await done.wait()
    return done.is_set()
