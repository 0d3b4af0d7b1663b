"""One run of NVIDIA's perf_analyzer, and what its report says."""

from __future__ import annotations

import asyncio
import csv
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import msgspec
from served.targets import Point

from gateway.settings import CHECKOUT

INSTALLED = CHECKOUT / ".perf" / "perf_analyzer"
NOT_INSTALLED = "perf_analyzer is not installed: run `just install-perf`"
WINDOWS = 3  # perf_analyzer's report joins the last three
HANGS_S = 1800.0
ANY_SPREAD = "100000"  # percent between windows: we repeat runs ourselves, turn about
SMALLEST_REGION = 4096


class AnalyzerError(Exception):
    """perf_analyzer ended without a report; the message is what it said last."""


@dataclass(frozen=True, slots=True)
class Served:
    """The served model: host:port for gRPC, its name, the inputs to send, bytes of one answer."""

    url: str
    model: str
    data: Path
    answer_bytes: int


@dataclass(frozen=True, slots=True)
class Length:
    """How long to measure: three windows, or until so many requests are answered."""

    window_s: float
    requests: int | None = None

    def options(self) -> list[str]:
        """For perf_analyzer."""
        if self.requests is not None:
            return ["--request-count", str(self.requests)]
        windows = ["-p", str(round(self.window_s * 1000)), "-r", str(WINDOWS)]
        return [*windows, "-s", ANY_SPREAD]


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """What one run found. Latencies are the client's, in ms; the server's parts are averages."""

    throughput: float
    """Pictures a second."""
    mean_ms: float
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    queue_ms: float
    compute_ms: float


def find_analyzer() -> Path | None:
    """The program that `just install-perf` made, or one on PATH."""
    if INSTALLED.is_file():
        return INSTALLED
    # an environment's `perf_analyzer` is a Python script that starts what may not run here
    found = shutil.which("perf_analyzer")
    return Path(found) if found and Path(found).parent != Path(sys.executable).parent else None


def command(program: Path, served: Served, point: Point, length: Length, report: Path) -> list[str]:
    """perf_analyzer's command line for one point."""
    region = max(SMALLEST_REGION, served.answer_bytes * point.batch)
    memory = ["--shared-memory=system", f"--output-shared-memory-size={region}"]
    return [
        str(program),
        *("-m", served.model, "-u", served.url, "-i", "grpc"),
        *("-b", str(point.batch), "--concurrency-range", str(point.concurrency)),
        *("--input-data", str(served.data)),
        *(memory if point.shared_memory == "system" else ()),
        *length.options(),
        *("--warmup-request-count", str(2 * point.concurrency)),
        *("-f", str(report), "--verbose-csv"),
    ]


async def analyze(program: Path, served: Served, point: Point, length: Length) -> Measurement:
    """Measure one point. Raises `AnalyzerError`."""
    return await asyncio.to_thread(_analyze, program, served, point, length)


def _analyze(program: Path, served: Served, point: Point, length: Length) -> Measurement:
    with tempfile.TemporaryDirectory(prefix="nereid-perf-") as folder:
        report = Path(folder) / "report.csv"
        try:
            done = subprocess.run(
                command(program, served, point, length, report),
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
                timeout=HANGS_S,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise AnalyzerError(
                f"perf_analyzer had not ended after {error.timeout:.0f} s"
            ) from None
        if done.returncode != 0 or not report.is_file():
            raise AnalyzerError("perf_analyzer failed: " + " ".join(done.stdout.split()[-40:]))
        return parse_report(report.read_text())


def parse_report(text: str) -> Measurement:
    """Read the CSV that `-f FILE --verbose-csv` writes for one concurrency, times in µs."""
    rows = list(csv.DictReader(text.strip().splitlines()))
    if len(rows) != 1:
        raise AnalyzerError(f"perf_analyzer's report has {len(rows)} rows, not one")
    row = rows[0]

    def ms(name: str) -> float:
        return float(row[name]) / 1000

    try:
        return Measurement(
            throughput=float(row["Inferences/Second"]),
            mean_ms=ms("Avg latency"),
            p50_ms=ms("p50 latency"),
            p90_ms=ms("p90 latency"),
            p95_ms=ms("p95 latency"),
            p99_ms=ms("p99 latency"),
            queue_ms=ms("Server Queue"),
            compute_ms=ms("Server Compute Infer"),
        )
    except (KeyError, ValueError) as error:
        raise AnalyzerError(f"perf_analyzer's report lacks {error}") from None
