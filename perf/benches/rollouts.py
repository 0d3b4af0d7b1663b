"""`just bench rollouts | cycles`: models change under load; versions come and go for hours."""

from __future__ import annotations

import argparse
import asyncio
import itertools
import shutil
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import msgspec
import psutil
import pyvips
from measure import resident_mb, say, system

from functions._kit.messages import new_id, now
from functions._kit.rollout.state import Target, serving_of
from functions.alerts.contracts import Alert, Frame, alert_subject, frame_subject
from gateway.adapters.jetstream import connect
from gateway.adapters.keyvalue import JetStreamKeyValue, open_key_values
from gateway.cli.models import ModelPorts, model_ports
from gateway.runtime import Runtime, open_runtime, required
from gateway.settings import CHECKOUT, Settings

MODELS = CHECKOUT / "model_repository"
DETECTOR, UPSCALER = "nanodet-g-416", "realesr-animevideov3-x2"
SWITCHED = {"detect": DETECTOR, "upscale.x2": UPSCALER}
COMMENT = b"\xfa\x3e\x01\x00"
"""A field that no reader of ONNX knows, so that the same network is other bytes."""
FRAMES_PER_S = 8.0
PHOTO_SIDE = 128
SWITCHES = 50
EVERY_S = 1.2
WATCHERS = 4
WARM_CYCLES = 20
CYCLES = 100


async def rollouts(options: argparse.Namespace) -> None:
    """Detections and upscalings at a constant load, in quiet and while versions are switched."""
    with tempfile.TemporaryDirectory(prefix="nereid-bench-") as folder:
        repository = await asyncio.to_thread(_two_versions, Path(folder) / "models")
        async with (
            system(Path(folder), model_repository=str(repository)) as (running, http),
            open_runtime(running.settings, name="bench") as ports,
            model_ports(running.settings, 1000) as models,
        ):
            for model in SWITCHED.values():
                await models.checker.ensure(Target(model=model, version="2"))
            load = Load(http, ports, await _photo(http))
            await load.prepare()
            await load.run(10)  # warm up
            quiet, busy, seen = [], [], []
            for _ in range(options.runs):
                quiet.append(await load.run(SWITCHES * EVERY_S))
                measured, seen_s = await _switching(load, models, running.settings)
                busy.append(measured)
                seen += seen_s
    _say(quiet, busy, seen, options.runs)


def _say(quiet: list[Measured], busy: list[Measured], seen: list[float], runs: int) -> None:
    for what in ("detections", "upscalings"):
        p99 = {
            name: [round(1000 * quantile(getattr(one, what), 0.99), 1) for one in measured]
            for name, measured in (("quiet", quiet), ("switching", busy))
        }
        ratios = [b / a for a, b in zip(p99["quiet"], p99["switching"], strict=True)]
        say(
            f"rollouts.{what}",
            p99_ms=p99,
            p50_ms={
                name: [round(1000 * quantile(getattr(one, what), 0.5), 1) for one in measured]
                for name, measured in (("quiet", quiet), ("switching", busy))
            },
            ratio_of_p99=round(statistics.median(ratios), 3),
            requests=[len(getattr(one, what)) for one in busy],
            failed=sum(one.failed for one in quiet + busy),
            versions=dict(sum((getattr(one, f"{what}_by") for one in busy), Counter())),
            switches=SWITCHES,
            runs=runs,
            load=f"{FRAMES_PER_S:g} frames a second of 416 x 256, one photo of {PHOTO_SIDE} x "
            f"{PHOTO_SIDE} by 2 after the other",
            limits={"failed": 0, "ratio_of_p99": "<= 1.5"},
        )
    say(
        "rollouts.seen",
        median_ms=round(1000 * statistics.median(seen), 2),
        most_ms=round(1000 * max(seen), 2),
        switches=len(seen),
        watchers=f"{WATCHERS} connections, each with a copy of its own as every process has",
        limit="most_ms <= 1000",
    )


@dataclass
class Measured:
    """Latencies in seconds of one phase, and by which version each was answered."""

    detections: list[float] = field(default_factory=list)
    upscalings: list[float] = field(default_factory=list)
    detections_by: Counter[str] = field(default_factory=Counter)
    upscalings_by: Counter[str] = field(default_factory=Counter)
    failed: int = 0


class Load:
    """Frames at a steady rate, and one upscaling after the other."""

    def __init__(self, http: httpx.AsyncClient, ports: Runtime, photo: str) -> None:
        self._http = http
        self._ports = ports
        self._photo = photo
        self._camera = "bench"
        self._sent: dict[str, float] = {}
        self._measured = Measured()

    async def prepare(self) -> None:
        """The camera's rules, and a frame in the bucket that makes one alert."""
        rules = {"labels": ["cup"], "min_score": 0.33, "cooldown_seconds": 0}
        answer = await self._http.put(f"/api/v1/cameras/{self._camera}", json=rules)
        answer.raise_for_status()
        frame = pyvips.Image.new_from_file(str(CHECKOUT / "tests" / "data" / "coffee.png"))
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "frame.jpg"
            frame.thumbnail_image(640, height=360, crop="centre").jpegsave(str(file), Q=90)
            await self._ports.objects.upload(file, "cameras/frame.jpg", "image/jpeg")

    async def run(self, seconds: float) -> Measured:
        """Load the system for so long; returns when every answer is there."""
        self._measured, self._sent = Measured(), {}
        subscription = await self._ports.stream.client.subscribe(
            alert_subject(self._camera), cb=self._arrived
        )
        until = time.perf_counter() + seconds
        await asyncio.gather(self._frames(until), self._photos(until))
        async with asyncio.timeout(120):
            while self._sent:
                await asyncio.sleep(0.01)
        await subscription.unsubscribe()
        return self._measured

    async def _frames(self, until: float) -> None:
        began = time.perf_counter()
        for number in itertools.count():
            due = began + number / FRAMES_PER_S
            if due >= until:
                return
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            captured_at = now()
            self._sent[captured_at.isoformat()] = time.perf_counter()
            frame = Frame(key="cameras/frame.jpg", captured_at=captured_at)
            subject = frame_subject(self._camera)
            await self._ports.stream.publish(subject, frame, message_id=new_id())

    async def _arrived(self, message: Any) -> None:
        alert = msgspec.json.decode(message.data, type=Alert)
        sent = self._sent.pop(alert.captured_at.isoformat(), None)
        if sent is not None:
            self._measured.detections.append(time.perf_counter() - sent)
            self._measured.detections_by[alert.model_version] += 1

    async def _photos(self, until: float) -> None:
        while time.perf_counter() < until:
            began = time.perf_counter()
            answer = await self._http.post(
                "/api/v1/media:process",
                json={"file_path": self._photo, "workflow": "nas-photo-processing"},
            )
            answer.raise_for_status()
            row = await self._finished(answer.json()["status_url"])
            if row["status"] != "completed":
                self._measured.failed += 1
                continue
            self._measured.upscalings.append(time.perf_counter() - began)
            self._measured.upscalings_by[row["result"]["model_version"]] += 1

    async def _finished(self, url: str) -> dict[str, Any]:
        async with self._http.stream("GET", f"{url}/events") as answer:
            async for line in answer.aiter_lines():
                if line.startswith("data: "):
                    event: dict[str, Any] = msgspec.json.decode(line.removeprefix("data: "))
                    if event["status"] in {"completed", "failed", "cancelled"}:
                        return event
        raise RuntimeError(f"{url} ended without a final event")


async def _switching(
    load: Load, models: ModelPorts, settings: Settings
) -> tuple[Measured, list[float]]:
    """The load while versions are switched back and forth; how soon each switch was seen by all."""
    seen: list[float] = []
    async with _watchers(settings) as watchers:
        running = asyncio.create_task(load.run(SWITCHES * EVERY_S))
        for number in range(SWITCHES):
            capability = list(SWITCHED)[number % 2]
            target = Target(model=SWITCHED[capability], version=str(2 - number // 2 % 2))
            await models.rollouts.switch(capability, target)
            began = time.perf_counter()
            while any(serving_of(one, capability).active != target for one in watchers):
                await asyncio.sleep(0.0005)
            seen.append(time.perf_counter() - began)
            await asyncio.sleep(max(0.0, EVERY_S - (time.perf_counter() - began)))
        return await running, seen


@asynccontextmanager
async def _watchers(settings: Settings) -> AsyncIterator[list[JetStreamKeyValue]]:
    async with AsyncExitStack() as stack:
        found = []
        for _ in range(WATCHERS):
            client = await connect(required(settings, "nats_url"), name="bench")
            stack.push_async_callback(client.close)
            found.append(await stack.enter_async_context(open_key_values(client)))
        yield found


async def _photo(http: httpx.AsyncClient) -> str:
    image = pyvips.Image.new_from_file(str(CHECKOUT / "tests" / "data" / "coffee.png"))
    content = image.crop(200, 120, PHOTO_SIDE, PHOTO_SIDE).write_to_buffer(".jpg", Q=90)
    answer = await http.post("/api/v1/media", content=bytes(content))
    answer.raise_for_status()
    return str(answer.json()["file_path"])


def quantile(values: list[float], share: float) -> float:
    """By nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _two_versions(folder: Path) -> Path:
    """The checkout's models, the switched ones with a second version of the same network."""
    shutil.copytree(MODELS, folder, symlinks=True)
    for model in SWITCHED.values():
        shutil.copytree(folder / model / "1", folder / model / "2")
        file = folder / model / "2" / "model.onnx"
        file.write_bytes((folder / model / "1" / "model.onnx").read_bytes() + COMMENT)
    return folder


async def cycles(options: argparse.Namespace) -> None:
    """Sound and broken versions are checked, loaded and removed again and again; memory."""
    with tempfile.TemporaryDirectory(prefix="nereid-bench-") as folder:
        repository = Path(folder) / "models"
        await asyncio.to_thread(shutil.copytree, MODELS, repository, symlinks=True)
        async with (
            system(Path(folder), model_repository=str(repository)) as (running, _),
            model_ports(running.settings, 1000) as models,
        ):
            parts = {
                "triton": next(
                    p for p in psutil.Process().children(recursive=True)
                    if "bin/tritonserver" in " ".join(p.cmdline()[:1])
                ).pid,
                "gateway": running.gateway.pid,
                "worker": running.worker.pid,
            }  # fmt: skip
            found: Counter[str] = Counter()
            for number in range(WARM_CYCLES):
                await _cycle(models, repository, number, found)
            before = await _memory(parts, models)
            track = []
            for number in range(CYCLES):
                await _cycle(models, repository, number, found)
                if number % 10 == 9:
                    track.append(resident_mb(parts["triton"]))
            after = await _memory(parts, models)
            ready = [v for v in await models.triton.versions() if v.state == "ready"]
    say(
        "rollouts.cycles",
        cycles=CYCLES,
        warm_cycles=WARM_CYCLES,
        outcomes=dict(found),
        before_mb=before,
        after_mb=after,
        triton_every_10_mb=track,
        growth_percent={name: round(100 * (after[name] / before[name] - 1), 2) for name in before},
        ready_at_the_end=sorted(f"{v.model}:{v.version}" for v in ready),
        runs=options.runs,
        limit="growth < 5%",
    )


async def _memory(parts: dict[str, int], models: ModelPorts) -> dict[str, float]:
    """Resident memory of each process, and what Triton and its backends take together (PSS)."""
    async with asyncio.timeout(60):
        while any(v.state == "unloading" for v in await models.triton.versions()):
            await asyncio.sleep(0.1)
    triton = psutil.Process(parts["triton"])
    tree = [triton, *triton.children(recursive=True)]
    shares = sum(process.memory_full_info().pss for process in tree)
    own = {name: resident_mb(pid) for name, pid in parts.items()}
    return own | {"triton_and_backends": round(shares / (1 << 20), 1)}


async def _cycle(models: ModelPorts, repository: Path, number: int, found: Counter[str]) -> None:
    """One version more: sound, truncated, of wrong shapes, or with a config that does not parse."""
    kind = ("sound", "truncated", "wrong shapes", "broken config")[number % 4]
    model = UPSCALER if kind != "broken config" else "broken"
    version = str(number + 2) if kind != "broken config" else "1"
    folder = repository / model / version
    await asyncio.to_thread(_make, kind, repository, folder)
    target = Target(model=model, version=version)
    check = await models.checker.check(target)
    found[f"{kind}: {'passed' if check.passed else 'refused'}"] += 1
    if check.passed:
        await models.repository.withdraw(model, version)
        await models.triton.load(model)
    await asyncio.to_thread(
        shutil.rmtree, repository / model if kind == "broken config" else folder
    )


def _make(kind: str, repository: Path, folder: Path) -> None:
    source = repository / UPSCALER
    if kind == "broken config":
        shutil.copytree(source, folder.parent)
        config = folder.parent / "config.pbtxt"
        config.write_text(config.read_text().replace(UPSCALER, "broken").replace("TYPE_U", "U"))
        return
    shutil.copytree(source / "1", folder)
    content = (source / "1" / "model.onnx").read_bytes() + COMMENT
    if kind == "truncated":
        content = content[:9000]
    elif kind == "wrong shapes":
        content = (repository / "realesr-animevideov3-x3" / "1" / "model.onnx").read_bytes()
    (folder / "model.onnx").write_bytes(content)
