"""A measured point, as tests change it."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace
from served.analyzer import Measurement
from served.lines import Conditions, CoreTime, Line, LoadLine, Spread
from served.machine import Machine
from served.targets import Point

CPU = Machine(cpu="a CPU", cores=2, simd="avx2")
GPU = Machine(cpu="a CPU", cores=16, simd="avx512", gpus=["a GPU"])
POINT = Point(shape=(416, 416), batch=1, shared_memory="none", concurrency=4)


def same(value: float) -> Spread:
    return Spread(median=value, least=value, most=value, runs=3)


def measured(throughput: float = 40.0, p95_ms: float = 100.0) -> Measurement:
    return Measurement(
        throughput=throughput,
        mean_ms=90.0,
        p50_ms=90.0,
        p90_ms=95.0,
        p95_ms=p95_ms,
        p99_ms=120.0,
        queue_ms=40.0,
        compute_ms=45.0,
    )


LINE = Line(
    row="detect",
    model="nanodet-g-416",
    version="1",
    config="config.pbtxt",
    config_hash="0123456789ab",
    instances=1,
    streams=2,
    max_batch=8,
    queue_delay_us=0,
    point=POINT,
    protocol="grpc",
    machine=CPU,
    triton="2.51.0",
    commit="abcdef0",
    command="just perf",
    date="2026-01-01T00:00:00+00:00",
    measured=measured(),
    core_time=CoreTime(bare_ms=48.0, triton_ms=52.0, client_ms=1.0),
    throughput=same(40.0),
)


def beside_bare(ratio: float, p95_ratio: float = 1.2, **changes: Any) -> Line:
    """A line of a CPU, whose bare engine did 42 a second."""
    bare = {"engine": "OpenVINO", "rate": {"median": 42.0, "least": 42.0, "most": 42.0, "runs": 3}}
    return replace(LINE, ratio=same(ratio), p95_ratio=p95_ratio, bare=bare, **changes)


def load_line(**figures: float) -> LoadLine:
    """A load on one GPU."""
    facts = {name: getattr(LINE, name) for name in Conditions.__struct_fields__}
    return LoadLine(
        **facts | {"row": "photo-1080p", "machine": GPU},
        gpus=1,
        width=1920,
        height=1080,
        scale=2,
        clients=8,
        photos=240,
        figures=figures,
    )
