"""Every metric of ours, once: its name, kind, labels, buckets, and who tells it.

docs/monitoring.md, the dashboards and the alert rules are tested against this list, and the list
against what a real system tells.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

Kind = Literal["counter", "gauge", "histogram"]
Role = Literal["serve", "work"]
BOTH: tuple[Role, ...] = ("serve", "work")
SERVE: tuple[Role, ...] = ("serve",)
WORK: tuple[Role, ...] = ("work",)

ANSWER_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3600)
"""An answer's time: an upload of a gigabyte takes a minute, most take milliseconds."""
WORK_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 21600)
"""From a camera's frame (tens of milliseconds) to a photo or recording that takes hours."""
ATTEMPTS = (1, 2, 3, 5, 12)


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric; a counter's name ends in `_total`."""

    name: str
    kind: Kind
    roles: tuple[Role, ...]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    def counter(self, registry: CollectorRegistry) -> Counter:
        """The instrument, in `registry`."""
        return Counter(self.name, self.help, self.labels, registry=registry)

    def gauge(self, registry: CollectorRegistry) -> Gauge:
        """The instrument, in `registry`."""
        return Gauge(self.name, self.help, self.labels, registry=registry)

    def histogram(self, registry: CollectorRegistry) -> Histogram:
        """The instrument, in `registry`."""
        return Histogram(self.name, self.help, self.labels, buckets=self.buckets, registry=registry)

    def read(
        self, samples: Iterable[tuple[tuple[str, ...], float]]
    ) -> GaugeMetricFamily | CounterMetricFamily:
        """What a collector found: values by the labels' values."""
        kind = CounterMetricFamily if self.kind == "counter" else GaugeMetricFamily
        family = kind(self.name, self.help, labels=self.labels)
        for labels, value in samples:
            family.add_metric(labels, value)
        return family


BUILD = Metric("nereid_build_info", "gauge", BOTH, "1, with version and role", ("version", "role"))
ASYNCIO_TASKS = Metric("nereid_asyncio_tasks", "gauge", BOTH, "Tasks of the event loop")
MEMORY = Metric(
    "nereid_resident_memory_bytes",
    "gauge",
    BOTH,
    "Resident memory of this process and its children",
)
CONVERSIONS_LIMIT = Metric(
    "nereid_audio_conversions_limit", "gauge", BOTH, "Conversions of sound that may run at once"
)
CONVERSIONS_ACTIVE = Metric(
    "nereid_audio_conversions_active", "gauge", BOTH, "Conversions of sound that run now"
)
CONVERSIONS_WAITING = Metric(
    "nereid_audio_conversions_waiting", "gauge", BOTH, "Conversions of sound that wait their turn"
)
CONVERSIONS = Metric(
    "nereid_audio_conversions_total",
    "counter",
    BOTH,
    "Conversions of sound that have ended",
    ("outcome",),
)
CONVERSION_SECONDS = Metric(
    "nereid_audio_conversion_seconds_total",
    "counter",
    BOTH,
    "Time of the completed conversions, waiting left out",
)
LANGUAGE_LIMIT = Metric(
    "nereid_language_model_requests_limit",
    "gauge",
    BOTH,
    "Requests to the language model that this process may have out at once",
)
LANGUAGE_ACTIVE = Metric(
    "nereid_language_model_requests_active",
    "gauge",
    BOTH,
    "Requests to the language model that have their turn now",
)
LANGUAGE_WAITING = Metric(
    "nereid_language_model_requests_waiting",
    "gauge",
    BOTH,
    "Requests to the language model that wait their turn",
)

HTTP_REQUESTS = Metric(
    "nereid_http_requests_total",
    "counter",
    SERVE,
    "Requests that have been answered, by function, method and status class",
    ("function", "method", "status"),
)
HTTP_SECONDS = Metric(
    "nereid_http_request_duration_seconds",
    "histogram",
    SERVE,
    "From a request's start to its answer's end; an event stream's, to its beginning",
    ("function", "method"),
    ANSWER_S,
)
HTTP_ACTIVE = Metric(
    "nereid_http_requests_active", "gauge", SERVE, "Requests under way, open event streams included"
)
JETSTREAM_UP = Metric(
    "nereid_jetstream_up",
    "gauge",
    SERVE,
    "1 where JetStream told the figures of queues in time; without it there are none",
)
QUEUE_WAITING = Metric(
    "nereid_queue_waiting_messages",
    "gauge",
    SERVE,
    "Messages that nobody has taken yet",
    ("function", "band"),
)
QUEUE_IN_HAND = Metric(
    "nereid_queue_in_hand_messages",
    "gauge",
    SERVE,
    "Messages that a worker has in hand, or that wait for their next attempt",
    ("function", "band"),
)
QUEUE_AGE = Metric(
    "nereid_queue_oldest_age_seconds",
    "gauge",
    SERVE,
    "Age of the oldest message that nobody has taken yet; 0 where none waits",
    ("function", "band"),
)
DEAD_LETTERS = Metric(
    "nereid_dead_letters_messages",
    "gauge",
    SERVE,
    "Dead letters that lie there, by the function that gave them up",
    ("function",),
)
WORKERS_WAITING = Metric(
    "nereid_workers_waiting",
    "gauge",
    SERVE,
    "Workers that say that they wait for a backend",
    ("backend",),
)

SLOTS = Metric(
    "nereid_worker_slots", "gauge", WORK, "Messages or batches at once", ("function", "kind")
)
SLOTS_BUSY = Metric(
    "nereid_worker_slots_busy", "gauge", WORK, "Slots at work now", ("function", "kind")
)
QUEUE_WAIT = Metric(
    "nereid_queue_wait_seconds",
    "histogram",
    WORK,
    "From a message's publishing to its first attempt",
    ("function", "band"),
    WORK_S,
)
HANDLER_SECONDS = Metric(
    "nereid_handler_duration_seconds",
    "histogram",
    WORK,
    "A handler's run on a message or batch, by how it ended",
    ("function", "outcome"),
    WORK_S,
)
MESSAGES = Metric(
    "nereid_messages_total",
    "counter",
    WORK,
    "Messages that left this worker's hands, by how",
    ("function", "outcome"),
)
MESSAGE_ATTEMPTS = Metric(
    "nereid_message_attempts",
    "histogram",
    WORK,
    "Attempts that a message had taken when it was over for good",
    ("function",),
    ATTEMPTS,
)
BACKEND_SICK = Metric(
    "nereid_backend_sick", "gauge", WORK, "1 while this worker waits for the backend", ("backend",)
)
TASK_QUEUED = Metric(
    "nereid_task_queued_seconds",
    "histogram",
    WORK,
    "From a task's creation to the start of its first step",
    ("workflow",),
    WORK_S,
)
TASK_SECONDS = Metric(
    "nereid_task_duration_seconds",
    "histogram",
    WORK,
    "From a task's creation to its final state, once that is in the database",
    ("workflow", "status"),
    WORK_S,
)
TASKS_RECORDED = Metric(
    "nereid_tasks_recorded_total",
    "counter",
    WORK,
    "Final states of tasks written to the database",
    ("workflow", "status"),
)
ALERTS_RECORDED = Metric(
    "nereid_alerts_recorded_total", "counter", WORK, "Alerts written to the database"
)

ALL = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
