"""The camera's part of `nereid demo`: one frame becomes an alert."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pyvips

from gateway.settings import CHECKOUT

FRAME = CHECKOUT / "tests" / "data" / "detection" / "astronaut.jpg"
CAMERA = "demo"
INK = [255, 64, 64]
LINE = 3
"""Width of the box in the picture, in pixels."""
ALERT_S = 60.0


async def watch_camera(http: httpx.AsyncClient) -> tuple[dict[str, Any], float]:
    """Send one frame; return the alert it makes, and the seconds until it was heard of."""
    async with asyncio.timeout(ALERT_S), http.stream("GET", "/api/v1/alerts/stream") as stream:
        began = time.perf_counter()
        answer = await http.post(
            "/api/v1/frames", params={"camera_id": CAMERA}, content=FRAME.read_bytes()
        )
        answer.raise_for_status()
        async for line in stream.aiter_lines():
            if line.startswith("data: "):
                alert: dict[str, Any] = msgspec.json.decode(line.removeprefix("data: "))
                return alert, time.perf_counter() - began
    raise RuntimeError("the stream of alerts ended")


def draw_alert(alert: dict[str, Any], out: Path) -> None:
    """The frame with the alert's box."""
    image = pyvips.Image.new_from_file(str(FRAME)).copy_memory()
    box = alert["box"]
    left, width = (round(box[name] * image.width) for name in ("x", "width"))
    top, height = (round(box[name] * image.height) for name in ("y", "height"))
    for inset in range(LINE):
        image = image.draw_rect(
            INK, left + inset, top + inset, width - 2 * inset, height - 2 * inset
        )
    image.write_to_file(str(out))
