"""GET /api/v1/performance and /api/v1/concurrent-status: how the work on sound goes now."""

from __future__ import annotations

from datetime import datetime

from litestar import get
from msgspec.structs import asdict

from functions._kit.errors import Unavailable
from functions._kit.http import Port
from functions._kit.messages import Answer
from functions._kit.policy import HttpPolicy
from functions._kit.ports import Figures, LanguageModel, LanguageModelUsage, ProcessFigures

_POLICY = HttpPolicy(scope=("audio:write", "system:read"))
"""They tell of sound alone, to those who may send some, and to those who watch over all."""


class ConcurrentStatus(Answer, frozen=True, kw_only=True):
    """Conversions of all processes together; counts begin with each process."""

    active_conversions: int
    max_concurrent: int
    utilization_percent: float
    """Of `max_concurrent`."""
    total_conversions: int
    """Completed ones. What was answered from earlier conversions is not among them."""
    average_processing_time: float
    """Seconds of a completed conversion, from its start, waiting left out."""
    queue_length: int
    cpu_percent: float
    """Of the answering machine's cores, over the last seconds; 100 is all of them."""
    memory_usage: int
    """Resident bytes of all processes."""


class Transcriptions(Answer, frozen=True, kw_only=True):
    """Transcriptions of one process, or of all."""

    active: int
    total: int
    """Completed ones."""
    audio_seconds: float
    average_processing_time: float


class ProcessPerformance(Answer, frozen=True, kw_only=True):
    """What one process does."""

    process_id: str
    name: str
    role: str
    since: datetime
    cpu_percent: float
    """Of one core; two busy cores are 200."""
    memory_usage: int
    active_conversions: int
    max_concurrent: int
    queue_length: int
    total_conversions: int
    failed_conversions: int
    average_processing_time: float
    transcriptions: Transcriptions


class Performance(ConcurrentStatus, frozen=True, kw_only=True):
    """Everything that is counted of sound, in all and by process."""

    failed_conversions: int
    transcriptions: Transcriptions
    language_model: LanguageModelUsage | None
    """None where nobody can say."""
    since: datetime
    """When the oldest of `processes` began to count; one that has ended takes its counts along."""
    processes: list[ProcessPerformance]


@get(
    "/api/v1/concurrent-status",
    summary="How many conversions run now",
    opt={"policy": _POLICY},
)
async def concurrent_status(figures: Port[Figures]) -> ConcurrentStatus:
    """The sums over all processes: this one's as they are, others' a second old at most."""
    return _status(figures.all())


@get("/api/v1/performance", summary="Figures of sound", opt={"policy": _POLICY})
async def performance(figures: Port[Figures], language_model: Port[LanguageModel]) -> Performance:
    """The same, with each process, transcriptions, and the language model's spent quota."""
    found = figures.all()
    try:
        usage = await language_model.usage()
    except Unavailable:
        usage = None
    return Performance(
        **asdict(_status(found)),
        failed_conversions=sum(f.conversions.failed for f in found),
        transcriptions=_transcriptions(found),
        language_model=usage,
        since=min(f.since for f in found),
        processes=[_process(f) for f in found],
    )


def _status(found: list[ProcessFigures]) -> ConcurrentStatus:
    conversions = [f.conversions for f in found]
    active = sum(c.active for c in conversions)
    at_most = sum(c.max_concurrent for c in conversions)
    completed = sum(c.completed for c in conversions)
    return ConcurrentStatus(
        active_conversions=active,
        max_concurrent=at_most,
        utilization_percent=round(100 * _mean(active, at_most), 1),
        total_conversions=completed,
        average_processing_time=_mean(sum(c.total_time_s for c in conversions), completed),
        queue_length=sum(c.waiting for c in conversions),
        cpu_percent=found[0].usage.machine_cpu_percent,
        memory_usage=sum(f.usage.memory_bytes for f in found),
    )


def _transcriptions(found: list[ProcessFigures]) -> Transcriptions:
    figures = [f.transcriptions for f in found]
    completed = sum(t.completed for t in figures)
    return Transcriptions(
        active=sum(t.active for t in figures),
        total=completed,
        audio_seconds=round(sum(t.audio_s for t in figures), 3),
        average_processing_time=_mean(sum(t.total_time_s for t in figures), completed),
    )


def _process(figures: ProcessFigures) -> ProcessPerformance:
    conversions = figures.conversions
    return ProcessPerformance(
        process_id=figures.process_id,
        name=figures.name,
        role=figures.role,
        since=figures.since,
        cpu_percent=figures.usage.cpu_percent,
        memory_usage=figures.usage.memory_bytes,
        active_conversions=conversions.active,
        max_concurrent=conversions.max_concurrent,
        queue_length=conversions.waiting,
        total_conversions=conversions.completed,
        failed_conversions=conversions.failed,
        average_processing_time=_mean(conversions.total_time_s, conversions.completed),
        transcriptions=_transcriptions([figures]),
    )


def _mean(total: float, count: int) -> float:
    """Rounded to a tenth of a millisecond; 0 of nothing."""
    return round(total / count, 4) if count else 0.0
