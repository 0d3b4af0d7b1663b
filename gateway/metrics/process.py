"""The registry of one process, and what it tells of itself. It is the port `Metrics`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator

from prometheus_client import (
    CollectorRegistry,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from gateway.metrics import catalogue

Refresh = Callable[[], Awaitable[None]]


class ProcessMetrics(Collector):
    """Everything that this process tells Prometheus. One for a process, made by the runtime."""

    def __init__(self, role: str, version: str) -> None:
        # the library's only switch for it is for the whole process; nobody asks for these series
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self._refreshes: list[Refresh] = []
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        catalogue.BUILD.gauge(self.registry).labels(version, role).set(1)
        self.registry.register(self)

    def add(self, collector: Collector, refresh: Refresh | None = None) -> None:
        """Ask `collector` at every scrape, after `refresh`, which has a deadline of its own."""
        self.registry.register(collector)
        if refresh is not None:
            self._refreshes.append(refresh)

    async def exposition(self) -> str:
        """See `Metrics.exposition`."""
        await asyncio.gather(*(refresh() for refresh in self._refreshes))
        return generate_latest(self.registry).decode()

    def collect(self) -> Iterator[Metric]:
        """Called within a scrape, on the event loop."""
        try:
            tasks = len(asyncio.all_tasks())
        except RuntimeError:  # the registry itself asks for names when it is made
            tasks = 0
        yield catalogue.ASYNCIO_TASKS.read([((), tasks)])
