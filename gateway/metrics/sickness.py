"""What workers wait for: one of them knows its own, a gateway what all of them report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from functions._kit.ports import KeyValue
from gateway.metrics import catalogue
from gateway.worker.health import Infirmary
from gateway.worker.sickness import BUCKET


class WaitingWorkers(Collector):
    """How many workers report that they wait for each backend; from this process' live copy."""

    def __init__(self, values: KeyValue, backends: Collection[str]) -> None:
        self._values = values
        self._backends = sorted(backends)

    def collect(self) -> Iterator[Metric]:
        """Read the copy; nothing is asked over the network."""
        waiting = Counter(key.partition(".")[0] for key in self._values.seen(BUCKET))
        names = dict.fromkeys([*self._backends, *sorted(waiting)])
        yield catalogue.WORKERS_WAITING.read(((name,), waiting[name]) for name in names)


class OwnSickness(Collector):
    """What this worker waits for."""

    def __init__(self, infirmary: Infirmary) -> None:
        self._infirmary = infirmary

    def collect(self) -> Iterator[Metric]:
        """Read what the infirmary knows."""
        sick = self._infirmary.sick
        names = sorted({*self._infirmary.backends, *sick})
        yield catalogue.BACKEND_SICK.read(((name,), float(name in sick)) for name in names)
