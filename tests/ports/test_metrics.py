"""What `Metrics` promises: the fake and the registry of a process tell Prometheus' text format."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from functions._kit.fakes import FakeMetrics
from functions._kit.ports import Metrics
from gateway.metrics.process import ProcessMetrics


@pytest.fixture(params=["fake", "real"])
def make(request: pytest.FixtureRequest) -> Callable[[], Metrics]:
    return FakeMetrics if request.param == "fake" else lambda: ProcessMetrics("serve", "1.2.3")


async def test_every_scrape_is_readable_and_ends_with_a_line(make: Callable[[], Metrics]) -> None:
    metrics = make()
    for _ in range(2):
        text = await metrics.exposition()
        assert text.endswith("\n")
        families = list(text_string_to_metric_families(text))
        assert families
        assert all(family.documentation for family in families)


async def test_two_processes_in_one_test_share_nothing(make: Callable[[], Metrics]) -> None:
    one, other = make(), make()
    await one.exposition()
    assert await other.exposition()


async def test_what_is_added_is_refreshed_before_it_is_asked() -> None:
    metrics, other = ProcessMetrics("serve", "1.2.3"), ProcessMetrics("work", "1.2.3")
    seen: list[float] = []

    class Late(Collector):
        def collect(self) -> list[GaugeMetricFamily]:
            return [GaugeMetricFamily("late", "told", value=len(seen))]

    async def refresh() -> None:
        seen.append(1.0)

    metrics.add(Late(), refresh)
    assert "late 1.0" in await metrics.exposition()
    assert "late 2.0" in await metrics.exposition()
    text = await other.exposition()
    assert "late" not in text
    assert 'nereid_build_info{role="work",version="1.2.3"} 1.0' in text
    assert isinstance(metrics.registry, CollectorRegistry)
