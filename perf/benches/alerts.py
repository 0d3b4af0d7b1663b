"""`just bench alerts | burst`: camera frames in the bucket become rows that a query returns."""

from __future__ import annotations

import argparse
import asyncio
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import msgspec
import nats
import pyvips
from measure import (
    PEERS,
    Engine,
    cpu_seconds,
    forget_peak,
    peak_mb,
    ratio,
    resident_mb,
    row,
    say,
    system,
    timed,
)

from functions._kit.capabilities import DEFAULT_MODELS
from functions._kit.consume import Envelope
from functions._kit.messages import new_id, now
from functions.alerts import detect as detecting
from functions.alerts._detector import detector
from functions.alerts.contracts import Alert, Frame, alert_subject, frame_subject
from gateway.runtime import Runtime, open_runtime
from gateway.settings import CHECKOUT
from gateway.system import System

PHOTOS = CHECKOUT / "tests" / "data" / "detection"
DIFFERENT = 32
WIDTH, HEIGHT = 1920, 1080
RULES = {"labels": ["person"], "min_score": 0.4, "cooldown_seconds": 0}
STEADY_PER_S, STEADY_S = 20, 30
BURST_PER_S, BURST_S = 300, 60
POLL_S = 0.1


async def alerts(options: argparse.Namespace) -> None:
    """The bare engine and the whole path turn about; latencies at a steady rate; the main way."""
    with tempfile.TemporaryDirectory(prefix="nereid-bench-") as folder:
        files = make_frames(Path(folder))
        engine = Engine([sys.executable, str(PEERS / "bare_detect.py"), folder])
        async with _prepared(Path(folder), files) as bench:
            expected = await bench.look_at_each()
            rates: dict[str, list[float]] = {"rectangle": [], "square": [], "path": []}
            busy: dict[str, float] = {}
            for _ in range(options.runs):
                for name in ("rectangle", "square"):
                    rates[name].append(await engine.run(name))
                before = cpu_seconds()
                rates["path"].append(await bench.rate(options.frames, expected))
                busy = {k: v - before.get(k, 0.0) for k, v in cpu_seconds().items()}
            _say_rates(rates, busy, engine, files, options)
            parts = await bench.main_way()
            for name, seconds in parts.items():
                limit = {"limit": "median < 0.002 s"} if name == "rest" else {}
                row(f"alerts.main_way.{name}", seconds, at_once=1, **limit)
            subscriber, query = await bench.latencies()
    steady = {"frames_per_s": STEADY_PER_S, "for_s": STEADY_S}
    row("alerts.frame_to_subscriber", subscriber, limit="p95 < 0.150 s", **steady)
    row("alerts.frame_to_query", query, limit="p95 < 2.5 s", poll_s=POLL_S, **steady)


def _say_rates(
    rates: dict[str, list[float]],
    busy: dict[str, float],
    engine: Engine,
    files: list[Path],
    options: argparse.Namespace,
) -> None:
    conditions = {
        "frame": f"{WIDTH}x{HEIGHT} JPEG, {DIFFERENT} different ones",
        "frame_bytes": int(statistics.median(file.stat().st_size for file in files)),
        "model": DEFAULT_MODELS["detect"],
        "runs": options.runs,
    }
    for name, found in rates.items():
        if name == "path":
            each = {k: round(1000 * v / options.frames, 2) for k, v in busy.items()}
            facts: dict[str, Any] = {"frames": options.frames, "cpu_ms_a_frame": each}
        else:
            own = {key: engine.facts[key][name] for key in ("streams", "shapes")}
            facts = {key: engine.facts[key] for key in ("engine", "version")} | own
        say(
            f"alerts.{name if name == 'path' else f'engine.{name}'}",
            median_per_s=round(statistics.median(found), 2),
            per_s=[round(rate, 2) for rate in found],
            **facts,
            **conditions,
        )
    say(
        "alerts.ratio",
        path_over_engine_rectangle=round(ratio(rates["path"], rates["rectangle"]), 3),
        path_over_engine_square=round(ratio(rates["path"], rates["square"]), 3),
        path_per_s=round(statistics.median(rates["path"]), 2),
        limits={"path_over_engine": ">= 0.75", "path_per_s": ">= 30"},
    )


async def burst(options: argparse.Namespace) -> None:
    """Ten times the rate for a minute: kept in the stream, worked off, memory flat."""
    with tempfile.TemporaryDirectory(prefix="nereid-bench-") as folder:
        files = make_frames(Path(folder))
        async with _prepared(Path(folder), files) as bench:
            expected = await bench.look_at_each()
            await bench.rate(options.frames, expected)
            processes = {
                "worker": bench.running.worker.pid,
                "gateway": bench.running.gateway.pid,
            }
            before = {name: resident_mb(pid) for name, pid in processes.items()}
            for pid in processes.values():
                forget_peak(pid)
            began = time.perf_counter()
            camera_id = bench.new_camera()
            await bench.set_rules(camera_id)
            await bench.publish(camera_id, BURST_PER_S * BURST_S, per_s=BURST_PER_S)
            published_s = time.perf_counter() - began
            waiting = await bench.waiting(camera_id)
            wanted = sum(expected[n % DIFFERENT] for n in range(BURST_PER_S * BURST_S))
            await bench.until_rows(camera_id, wanted, timeout_s=7200)
            seconds = time.perf_counter() - began
            say(
                "alerts.burst",
                frames=BURST_PER_S * BURST_S,
                published_in_s=round(published_s, 1),
                waiting_at_the_end=waiting,
                alerts_wanted=wanted,
                alerts_found=await bench.rows(camera_id),
                worked_off_in_s=round(seconds, 1),
                per_s=round(BURST_PER_S * BURST_S / seconds, 1),
                before_mb=before,
                peak_mb={name: peak_mb(pid) for name, pid in processes.items()},
                after_mb={name: resident_mb(pid) for name, pid in processes.items()},
                limit="alerts_found == alerts_wanted, memory flat",
            )


@dataclass
class Bench:
    """A running system with frames in its bucket, and ports of our own beside it."""

    running: System
    http: httpx.AsyncClient
    ports: Runtime
    keys: list[str]
    arrived: dict[str, float] = field(default_factory=dict)

    @staticmethod
    def new_camera() -> str:
        """A camera that nobody has used."""
        return f"bench-{secrets.token_hex(4)}"

    async def set_rules(self, camera_id: str, **rules: Any) -> None:
        """Through the interface, as an operator does."""
        answer = await self.http.put(f"/api/v1/cameras/{camera_id}", json=RULES | rules)
        answer.raise_for_status()

    async def publish(
        self, camera_id: str, count: int, *, per_s: float | None = None
    ) -> dict[str, float]:
        """Frames on the stream; the moment of each by its captured_at."""
        moments: dict[str, float] = {}
        began = time.perf_counter()
        for n in range(count):
            if per_s is not None:
                await asyncio.sleep(max(0.0, began + n / per_s - time.perf_counter()))
            captured_at = now()
            moments[captured_at.isoformat()] = time.perf_counter()
            frame = Frame(key=self.keys[n % len(self.keys)], captured_at=captured_at)
            await self.ports.stream.publish(frame_subject(camera_id), frame, message_id=new_id())
        return moments

    async def rows(self, camera_id: str) -> int:
        """How many alerts of the camera a query counts."""
        answer = await self.http.get("/api/v1/alerts/counts", params={"camera_id": camera_id})
        answer.raise_for_status()
        return sum(item["count"] for item in answer.json()["items"])

    async def until_rows(self, camera_id: str, wanted: int, *, timeout_s: float = 600) -> None:
        """Wait until a query counts so many alerts."""
        async with asyncio.timeout(timeout_s):
            while await self.rows(camera_id) < wanted:
                await asyncio.sleep(POLL_S)

    async def waiting(self, camera_id: str) -> int:
        """Frames of the camera that the stream holds."""
        return await self.ports.stream.count(frame_subject(camera_id))

    async def look_at_each(self) -> list[int]:
        """How many alerts each frame makes; the system is warm then."""
        expected: list[int] = []
        for key in self.keys:
            by = await detector(self.ports.inference, self.ports.values)
            data, _ = await self.ports.objects.read(key, limit_bytes=1 << 25)
            found = await detecting.look(
                data, by, self.ports.pictures, self.ports.inference, self.ports.limits
            )
            expected.append(
                sum(d.label in RULES["labels"] and d.score >= RULES["min_score"] for d in found)  # type: ignore[operator]
            )
        if not all(expected):
            raise RuntimeError(f"a frame makes no alert: {expected}")
        return expected

    async def rate(self, count: int, expected: list[int]) -> float:
        """Frames a second, from the first publish to the last row that a query returns."""
        camera_id = self.new_camera()
        await self.set_rules(camera_id)
        began = time.perf_counter()
        await self.publish(camera_id, count)
        wanted = sum(expected[n % len(expected)] for n in range(count))
        await self.until_rows(camera_id, wanted)
        return count / (time.perf_counter() - began)

    async def latencies(self) -> tuple[list[float], list[float]]:
        """Seconds from the publish of a frame to a subscriber, and to a query's answer."""
        camera_id = self.new_camera()
        await self.set_rules(camera_id)
        heard: dict[str, float] = {}
        seen: dict[str, float] = {}

        async def hear(message: Any) -> None:
            alert = msgspec.json.decode(message.data, type=Alert)
            heard.setdefault(alert.captured_at.isoformat(), time.perf_counter())

        async def ask() -> None:
            while True:
                query = {"camera_id": camera_id, "limit": "200"}
                answer = await self.http.get("/api/v1/alerts", params=query)
                arrival = time.perf_counter()
                for item in answer.json()["items"]:
                    captured_at = datetime.fromisoformat(item["captured_at"])
                    seen.setdefault(captured_at.isoformat(), arrival)
                await asyncio.sleep(POLL_S)

        client = await nats.connect(self.running.settings.nats_url)
        await client.subscribe(alert_subject(camera_id), cb=hear)
        asking = asyncio.create_task(ask())
        moments = await self.publish(camera_id, STEADY_PER_S * STEADY_S, per_s=STEADY_PER_S)
        async with asyncio.timeout(60):
            while len(seen) < len(moments):
                await asyncio.sleep(POLL_S)
        asking.cancel()
        await client.close()
        return (
            [heard[at] - moment for at, moment in moments.items()],
            [seen[at] - moment for at, moment in moments.items()],
        )

    async def main_way(self, count: int = 200) -> dict[str, list[float]]:
        """What one frame's way through `alerts.detect` is made of, one frame at a time.

        The handler itself, on the running servers; `rest` is rules, ids, and publishing.
        """
        camera_id = self.new_camera()
        await self.set_rules(camera_id, cooldown_seconds=0)
        clock = _Clock(self.ports)
        parts: dict[str, list[float]] = {"read": [], "decode": [], "infer": [], "rest": []}
        for n in range(count):
            clock.spent.clear()
            frame = Frame(key=self.keys[n % len(self.keys)], captured_at=now())
            envelope = Envelope(frame_subject(camera_id), 1, now())
            whole = await timed(clock.handle(frame, envelope))
            for name, seconds in clock.spent.items():
                parts[name].append(seconds)
            parts["rest"].append(whole - sum(clock.spent.values()))
        return parts


class _Clock:
    """The handler of alerts.detect, with its three expensive parts timed."""

    def __init__(self, ports: Runtime) -> None:
        self.spent: dict[str, float] = {}
        self._ports = ports
        self._read, self._infer = ports.objects.read, ports.inference.infer

    async def handle(self, frame: Frame, envelope: Envelope) -> None:
        """Run the handler on one frame."""
        ports = self._ports
        await detecting.detect.handler(
            frame,
            envelope,
            self,
            self,
            self,
            ports.stream,
            ports.values,
            ports.tally,
            ports.limits,
        )

    async def read(self, key: str, *, limit_bytes: int) -> Any:
        """`Objects.read`, timed."""
        began = time.perf_counter()
        try:
            return await self._read(key, limit_bytes=limit_bytes)
        finally:
            self.spent["read"] = time.perf_counter() - began

    async def infer(self, model: Any, inputs: Any, *, priority: int = 2) -> Any:
        """`Inference.infer`, timed."""
        began = time.perf_counter()
        try:
            return await self._infer(model, inputs, priority=priority)
        finally:
            self.spent["infer"] = time.perf_counter() - began

    async def model(self, name: str, version: str | None = None) -> Any:
        """`Inference.model`."""
        return await self._ports.inference.model(name, version)

    def report(self, model: Any, problem: str | None = None) -> None:
        """`Inference.report`."""
        self._ports.inference.report(model, problem)

    async def letterbox(self, source: bytes, **options: Any) -> Any:
        """`PictureDecoder.letterbox`, timed."""
        began = time.perf_counter()
        try:
            return await self._ports.pictures.letterbox(source, **options)
        finally:
            self.spent["decode"] = time.perf_counter() - began


@asynccontextmanager
async def _prepared(folder: Path, files: list[Path]) -> AsyncIterator[Bench]:
    async with (
        system(folder) as (running, http),
        open_runtime(running.settings, name="bench") as ports,
    ):
        keys = [f"cameras/{file.name}" for file in files]
        for file, key in zip(files, keys, strict=True):
            await ports.objects.upload(file, key, "image/jpeg")
        yield Bench(running, http, ports, keys)


def make_frames(folder: Path) -> list[Path]:
    """1080p JPEGs of a real photo at different places and sizes before another one."""
    background = pyvips.Image.new_from_file(str(PHOTOS / "coffee.jpg")).thumbnail_image(
        WIDTH, height=HEIGHT, crop="centre"
    )
    person = pyvips.Image.new_from_file(str(PHOTOS / "astronaut.jpg"))
    files: list[Path] = []
    for n in range(DIFFERENT):
        placed = person.resize(1.2 + 0.1 * (n % 4))
        left = (WIDTH - placed.width) * n // (DIFFERENT + 4)
        top = HEIGHT - placed.height if placed.height < HEIGHT else 0
        placed = placed.crop(0, 0, placed.width, min(placed.height, HEIGHT))
        files.append(folder / f"frame-{n:02}.jpg")
        background.insert(placed, left, top).jpegsave(str(files[-1]), Q=85)
    return files
