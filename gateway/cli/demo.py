"""`nereid demo`: the whole path on this machine, watched by a person."""

from __future__ import annotations

import asyncio
import secrets
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import httpx
import msgspec
import numpy as np
import pyvips
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from functions._kit.pictures import decode, encode
from functions._kit.ports import Client
from functions._kit.secrets import hash_secret
from functions.tasks.contracts import Status
from gateway.adapters.tables import ClientTable, open_database
from gateway.cli.demo_camera import FRAME, draw_alert, watch_camera
from gateway.first_models import ModelProgress
from gateway.runtime import required
from gateway.settings import CHECKOUT, Settings, load
from gateway.signals import until_stopped
from gateway.system import running_system

PHOTO = CHECKOUT / "tests" / "data" / "coffee.png"
VOICE = CHECKOUT / "tests" / "data" / "sounds" / "two_cities.opus"
SCOPES = frozenset({"media:write", "media:read", "frames:write", "alerts:read", "audio:write"})
DETAIL, GAP = 480, 8
"""Side of the square detail in the before/after picture, and the white between, in pixels."""


async def run_demo(photo: Path | None, scale: int, output: Path) -> None:
    """Start everything in a folder of its own, enlarge `photo`, write the results to `output`."""
    console = Console(highlight=False)
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="nereid-demo-") as folder:
        settings = load({}, data=Path(folder), port=0)
        ended = await until_stopped(_demo(console, settings, photo or PHOTO, scale, output))
    console.print("Everything that was started has been stopped.")
    if not ended:
        raise KeyboardInterrupt


async def _demo(
    console: Console, settings: Settings, photo: Path, scale: int, output: Path
) -> None:
    def report(name: str, seconds: float | None) -> None:
        said = "died" if seconds is None else f"{seconds:6.1f} s"
        console.print(f"  {name:<28} {said}")

    def report_model(progress: ModelProgress) -> None:
        if progress.problem is not None:
            console.print(f"  {progress.model} could not be loaded: {progress.problem}")
        elif progress.seconds is not None:
            report(progress.model, progress.seconds)

    console.print("[bold]Starting the servers")
    began = time.perf_counter()
    async with running_system(settings, report, report_model) as system:
        report("all ready", time.perf_counter() - began)
        await system.models.loaded.wait()  # else the photo would wait for them
        console.print(f"[bold]Enlarging {photo.name} by {scale}")
        credentials = await _client(system.settings)
        async with httpx.AsyncClient(base_url=system.url, timeout=60.0) as http:
            with _timed(console, "token"):
                answer = await _ok(http.post("/api/v1/auth/token", json=credentials))
                http.headers["Authorization"] = f"Bearer {answer['access_token']}"
            with _timed(console, "upload"):
                content = photo.read_bytes()
                media = await _ok(http.post("/api/v1/media", content=content))
            with _timed(console, "nas-photo-processing"):
                task = await _process(console, http, media["file_path"], scale)
            if task["status"] != Status.COMPLETED:
                raise click.ClickException(f"the task has {task['status']}: {task['error']}")
            with _timed(console, "download"):
                enlarged = await _download(task["result"]["url"])
        with _timed(console, "before/after picture"):
            result = output / f"{photo.stem}_x{scale}{Path(task['result']['file_path']).suffix}"
            result.write_bytes(enlarged)
            picture = output / f"{photo.stem}_before_after.png"
            await asyncio.to_thread(before_after, photo, result, picture)
        console.print(f"[bold]A camera sends {FRAME.name}")
        async with httpx.AsyncClient(base_url=system.url, headers=http.headers) as camera:
            alert, seconds = await watch_camera(camera)
        console.print(f"  {'frame to alert':<28} {seconds:6.2f} s")
        await asyncio.to_thread(draw_alert, alert, output / "alert.png")
        console.print(f"[bold]A voice message, {VOICE.name}")
        async with httpx.AsyncClient(
            base_url=system.url, headers=http.headers, timeout=60.0
        ) as voice:
            with _timed(console, "transcription"):
                files = {"audio_file": (VOICE.name, VOICE.read_bytes())}
                heard = await _ok(voice.post("/api/v1/translate_audio", files=files))
    info = task["result"]
    console.print(
        f"\n{media['width']} x {media['height']} -> {info['width']} x {info['height']} "
        f"with {info['model']} (version {info['model_version']})"
    )
    console.print(f"result        [bold]{result}")
    console.print(f"before/after  [bold]{picture}[/] (left: Lanczos, right: Nereid)")
    console.print(
        f"alert         [bold]{output / 'alert.png'}[/] ({alert['label']}, {alert['score']:.2f})"
    )
    console.print(f"{heard['duration']:.1f} s of speech  [bold]{heard['transcription']}\n")


async def _client(settings: Settings) -> dict[str, str]:
    secret = secrets.token_urlsafe(32)
    async with open_database(required(settings, "database_url"), max_connections=1) as database:
        await ClientTable(database).add(
            Client(
                client_id="demo",
                secret_hash=hash_secret(secret),
                scopes=SCOPES,
            )
        )
    return {"client_id": "demo", "client_secret": secret, "grant_type": "client_credentials"}


async def _process(
    console: Console, http: httpx.AsyncClient, file_path: str, scale: int
) -> dict[str, Any]:
    """Start the workflow and follow its events with a bar until the end."""
    body = {
        "file_path": file_path,
        "workflow": "nas-photo-processing",
        "parameters": {"image_enhance": {"scale_factor": scale}},
    }
    accepted = await _ok(http.post("/api/v1/media:process", json=body))
    bar = Progress(
        TextColumn("  {task.description:<12}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        console=console,
    )
    with bar:
        line = bar.add_task("queued", total=1.0)
        async for event in _events(http, accepted["status_url"] + "/events"):
            bar.update(line, completed=event["progress"], description=event["status"])
    return await _ok(http.get(accepted["status_url"]))


async def _events(http: httpx.AsyncClient, path: str) -> AsyncIterator[dict[str, Any]]:
    async with http.stream("GET", path) as stream:
        async for line in stream.aiter_lines():
            if line.startswith("data: "):
                yield msgspec.json.decode(line.removeprefix("data: "))


async def _download(url: str) -> bytes:
    """What a presigned URL gives; our token would only confuse S3."""
    async with httpx.AsyncClient(timeout=60.0) as plain:
        answer = await plain.get(url)
    if answer.is_error:
        raise click.ClickException(f"the result's URL answered {answer.status_code}: {answer.text}")
    return answer.content


async def _ok(request: Any) -> dict[str, Any]:
    answer: httpx.Response = await request
    if answer.is_error:
        raise RuntimeError(
            f"{answer.request.url.path} answered {answer.status_code}: {answer.text}"
        )
    found: dict[str, Any] = answer.json()
    return found


@contextmanager
def _timed(console: Console, name: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    console.print(f"  {name:<28} {time.perf_counter() - began:6.1f} s")


def before_after(before: Path, after: Path, out: Path) -> None:
    """A detail twice, side by side: enlarged by Lanczos, and the result. The busiest one."""
    result = _image(after)
    plain = _image(before)
    plain = plain.resize(result.width / plain.width, vscale=result.height / plain.height)
    width, height = min(DETAIL, result.width), min(DETAIL, result.height)
    left, top = _busiest(result, width, height)
    gap = np.full((height, GAP, 3), 255, np.uint8)
    panels = [image.crop(left, top, width, height).numpy() for image in (plain, result)]
    encode(np.concatenate([panels[0], gap, panels[1]], axis=1), None, out, format="png")


def _image(path: Path) -> pyvips.Image:
    pixels = decode(path).pixels
    if pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)
    return pyvips.Image.new_from_array(pixels).copy(interpretation="srgb")


def _busiest(image: pyvips.Image, width: int, height: int) -> tuple[int, int]:
    """The corner of the detail with the strongest edges."""
    steps = [
        (left, top)
        for top in range(0, image.height - height + 1, max(1, height // 2))
        for left in range(0, image.width - width + 1, max(1, width // 2))
    ]
    edges = image.colourspace("b-w").sobel().copy_memory()
    return max(steps, key=lambda at: float(edges.crop(*at, width, height).avg()))
