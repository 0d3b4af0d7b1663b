"""A row of targets.toml, measured: every point turn about with the bare engine."""

from __future__ import annotations

import resource
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import psutil
from measure import PEERS, Engine, conditions
from served import server
from served.analyzer import Length, Measurement, Served, analyze
from served.lines import CoreTime, Line, Spread, words
from served.machine import machine
from served.pictures import write_input_data
from served.targets import Point, Row, Shape

BARE = PEERS / "bare_served.py"
WARM_UP_ROUNDS = 3
SHAPELESS_BYTES = 4096

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Place:
    """Where Triton is; `pid` is 0 where it is not ours."""

    url: str
    pid: int = 0


@dataclass(frozen=True, slots=True)
class Turn:
    """One run of one point, and what the bare engine did just before (pictures a second)."""

    found: Measurement
    bare: float | None
    cores: CoreTime


async def measure_row(
    row: Row, program: Path, *, runs: int, triton: str, scratch: Path, say: Say
) -> list[Line]:
    """All points of a row, each `runs` times. `triton`: host:port, or empty for one of our own."""
    lines: list[Line] = []
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        async with _triton(row, triton, Path(folder)) as place:
            config = await server.load(place.url, row.model)
            _, version = await server.versions(place.url, row.model)
            for shape in row.shapes:
                points = [point for point in row.points() if point.shape == shape]
                data = write_input_data(Path(folder) / "data.json", "image", *shape)
                served = Served(place.url, row.model, data, _answer_bytes(config, shape))
                with_engine = row.device == "cpu"
                engine = _engine(row, config, version, shape) if with_engine else None
                try:
                    turns = await _turns(row, points, served, place.pid, program, engine, runs, say)
                finally:
                    if engine is not None:
                        engine.end()
                facts = await common(place.url, row.name, row.model, row.config)
                facts |= _served_by(config)
                bare = engine.facts if engine is not None else None
                lines += [_line(facts, point, turns[n], bare) for n, point in enumerate(points)]
    return lines


@asynccontextmanager
async def _triton(row: Row, url: str, folder: Path) -> AsyncIterator[Place]:
    if row.device == "gpu":
        yield Place(url)
        return
    async with server.own_triton(folder, row.model, row.config) as own:
        yield Place(own.url, own.process.pid)


def _answer_bytes(config: Any, shape: Shape) -> int:
    """Bytes of the answer for one picture, or more."""
    scale = int(server.parameter(config, "scale", "0"))
    height, width = shape
    return max(SHAPELESS_BYTES, height * width * 3 * scale**2)


def _engine(row: Row, config: Any, version: str, shape: Shape) -> Engine:
    model = server.REPOSITORY / row.model / version / config.default_model_filename
    precision = server.parameter(config, "precision", "f32")
    arguments = [str(model), precision, *(str(side) for side in shape), str(row.window_s)]
    return Engine([sys.executable, str(BARE), *arguments])


async def _turns(
    row: Row,
    points: Sequence[Point],
    served: Served,
    pid: int,
    program: Path,
    engine: Engine | None,
    runs: int,
    say: Say,
) -> list[list[Turn]]:
    """For each point its runs; each round begins with another point."""
    busiest = max(points, key=lambda point: point.concurrency)
    length = Length(row.window_s, row.requests)
    await analyze(program, served, busiest, Length(0.0, WARM_UP_ROUNDS * busiest.concurrency))
    turns: list[list[Turn]] = [[] for _ in points]
    for run in range(runs):
        for step in range(len(points)):
            which = (run + step) % len(points)
            bare = await engine.run() if engine is not None else None
            bare_ms = await engine.run("core_ms") if engine is not None else 0.0
            before = await _used(served, pid)
            found = await analyze(program, served, points[which], length)
            cores = _between(before, await _used(served, pid), bare_ms)
            turns[which].append(Turn(found, bare, cores))
            beside = f", bare {bare:.2f}" if bare is not None else ""
            say(
                f"{row.name} {run + 1}/{runs}: {words(points[which])}:"
                f" {found.throughput:.2f}/s{beside}, p95 {found.p95_ms:.0f} ms,"
                f" others on {cores.others:.0%} of the cores"
            )
    return turns


class Used(NamedTuple):
    """What has been used so far, in seconds of one core."""

    pictures: float
    triton: float
    """Where it is ours."""
    client: float
    """By all our children that have ended."""
    all: float
    """By every process of this machine."""
    clock: float


async def _used(served: Served, pid: int) -> Used:
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    whole = psutil.cpu_times()
    return Used(
        pictures=await server.done(served.url, served.model),
        triton=server.core_seconds(pid) if pid else 0.0,
        client=ended.ru_utime + ended.ru_stime,
        all=sum(whole[:8]) - whole.idle - whole.iowait,  # behind them are guests, counted twice
        clock=time.perf_counter(),
    )


def _between(before: Used, after: Used, bare_ms: float) -> CoreTime:
    used = Used(*(b - a for a, b in zip(before, after, strict=True)))
    others = (used.all - used.triton - used.client) / (used.clock * machine().cores)
    return CoreTime(
        bare_ms=bare_ms,
        triton_ms=used.triton / used.pictures * 1000,
        client_ms=used.client / used.pictures * 1000,
        others=max(0.0, others) if used.triton else 0.0,
    )


async def common(url: str, row: str, model: str, config_name: str) -> dict[str, Any]:
    """The `Conditions` of a line that is measured now."""
    triton, version = await server.versions(url, model)
    path = server.config_path(model, config_name)
    return {
        "row": row,
        "model": model,
        "version": version,
        "config": path.name,
        "config_hash": server.digest(path.read_text()),
        "machine": machine(),
        "triton": triton,
        "commit": conditions()["commit"],
        "command": " ".join(["just perf", *sys.argv[1:]]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _served_by(config: Any) -> dict[str, Any]:
    return {
        "instances": server.instances(config),
        "streams": int(server.parameter(config, "streams", "1")),
        "max_batch": config.max_batch_size,
        "queue_delay_us": config.dynamic_batching.max_queue_delay_microseconds,
        "protocol": "grpc",
    }


def _line(
    facts: dict[str, Any], point: Point, turns: Sequence[Turn], bare: dict[str, Any] | None
) -> Line:
    figures = {
        name: statistics.median(getattr(turn.found, name) for turn in turns)
        for name in Measurement.__struct_fields__
    }
    cores = {
        name: statistics.median(getattr(turn.cores, name) for turn in turns)
        for name in CoreTime.__struct_fields__
    }
    beside: dict[str, Any] = {}
    rates = [turn.bare for turn in turns if turn.bare is not None]
    if bare is not None and rates:
        ratios = [turn.found.throughput / turn.bare for turn in turns if turn.bare]
        least = [point.concurrency * point.batch / rate for rate in rates]  # s, by Little's law
        beside = {
            "bare": bare | {"rate": msgspec.to_builtins(spread(rates))},
            "ratio": spread(ratios),
            "core_ratio": CoreTime(**cores).ratio,
            "p95_ratio": statistics.median(
                turn.found.p95_ms / 1000 / best for turn, best in zip(turns, least, strict=True)
            ),
        }
    return Line(
        **facts,
        point=point,
        measured=Measurement(**figures),
        core_time=CoreTime(**cores),
        throughput=spread([turn.found.throughput for turn in turns]),
        **beside,
    )


def spread(values: Sequence[float]) -> Spread:
    """Median, least and most."""
    return Spread(
        median=statistics.median(values), least=min(values), most=max(values), runs=len(values)
    )
