"""A setting measured: the model loaded with it, and asked by more and more at once."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from served import server
from served.analyzer import Length, Measurement, Served, analyze
from served.pictures import write_input_data
from served.targets import Point, Shape
from tritonclient.utils import InferenceServerException
from tuning.setting import Setting, put

NO_GAIN = 1.02  # more requests at once that bring less than this bring nothing


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """One measurement of a setting at one concurrency."""

    setting: Setting
    concurrency: int
    measured: Measurement


@dataclass
class Bench:
    """A Triton with the model that is tuned."""

    served: Served
    config: Any
    program: Path
    shape: Shape
    concurrency: Sequence[int]
    window_s: float
    limit_ms: float
    evidence: list[Found] = field(default_factory=list)

    async def rate(self, setting: Setting) -> float:
        """Pictures a second within the limit: the best concurrency's; 0 where none keeps it."""
        try:
            await server.load(self.served.url, self.served.model, put(self.config, setting))
        except InferenceServerException as error:
            sys.stderr.write(f"refused: {setting.words()}: {error.message()}\n")
            return 0.0
        best = 0.0
        for concurrency in self.concurrency:
            point = Point(shape=self.shape, batch=1, shared_memory="none", concurrency=concurrency)
            found = await analyze(self.program, self.served, point, Length(self.window_s))
            self.evidence.append(Found(setting=setting, concurrency=concurrency, measured=found))
            if self.limit_ms and found.p95_ms > self.limit_ms:
                break
            if found.throughput < NO_GAIN * best:
                best = max(best, found.throughput)
                break
            best = found.throughput
        return best


@asynccontextmanager
async def bench(
    model: str,
    program: Path,
    *,
    shape: Shape,
    concurrency: Sequence[int],
    window_s: float,
    limit_ms: float,
    triton: str = "",
    config_name: str = "",
) -> AsyncIterator[Bench]:
    """On a Triton of its own, with a copy of the model's folder in scratch, or on that `triton`.

    There the model is loaded as its folder says at the end.
    """
    config = server.read_config(server.config_path(model, config_name).read_text())
    with tempfile.TemporaryDirectory(prefix="nereid-tune-") as folder:
        data = write_input_data(Path(folder) / "data.json", "image", *shape)
        async with _place(Path(folder), model, triton) as url:
            served = Served(url, model, data, 0)
            yield Bench(served, config, program, shape, concurrency, window_s, limit_ms)


@asynccontextmanager
async def _place(folder: Path, model: str, triton: str) -> AsyncIterator[str]:
    """host:port of the Triton to ask."""
    if not triton:
        async with server.own_triton(folder, model) as own:
            yield own.url
        return
    try:
        yield triton
    finally:
        await server.load(triton, model)
