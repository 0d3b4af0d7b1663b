"""One model tuned: the search on a bench of its own, within its time, with all evidence."""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from measure import conditions
from served import server
from served.analyzer import NOT_INSTALLED, AnalyzerError, find_analyzer
from served.machine import machine
from served.targets import Shape
from tuning.bench import Bench, bench
from tuning.search import Search, Trial
from tuning.setting import Setting, present, stages

SHAPES: dict[str, Shape] = {"detect": (416, 416)}
TILE: Shape = (270, 480)


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What tuning found, and everything that speaks for it."""

    model: str
    config: str
    """The name of its file in MODEL/configs; empty: config.pbtxt."""
    best: Setting
    before: Setting
    rate: float
    """Pictures a second of the best, in its last race."""
    rate_before: float
    """Of the setting that stood, in the same race."""
    noise: float
    conditions: dict[str, Any]
    races: list[dict[str, Any]]
    measurements: list[dict[str, Any]]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(prog="just tune", description=__doc__)
    found.add_argument("model", help="a folder of model_repository")
    found.add_argument("--limit-ms", type=float, default=0.0, help="p95 latency; 0: none")
    found.add_argument("--budget-minutes", type=float, default=15.0)
    found.add_argument(
        "--concurrency",
        type=int,
        nargs="+",
        help="requests at once, tried upwards; 4 8, with a limit 1 2 4 8",
    )
    found.add_argument("--shape", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"))
    found.add_argument("--window-s", type=float, default=1.0, help="a third of a measurement")
    found.add_argument("--triton", default="", help="host:port; without it, one of our own")
    found.add_argument("--config", default="", help="MODEL/configs/CONFIG.pbtxt; needs --triton")
    found.add_argument("--dry-run", action="store_true", help="change no file, print the change")
    return found


def arguments(words: Sequence[str]) -> argparse.Namespace:
    """The command line, read."""
    options = parser().parse_args(words)
    options.concurrency = options.concurrency or ([1, 2, 4, 8] if options.limit_ms else [4, 8])
    return options


async def tune(options: argparse.Namespace) -> Outcome:
    """Search. Raises `AnalyzerError` and `ValueError` with a sentence for people."""
    program = find_analyzer()
    if program is None:
        raise AnalyzerError(NOT_INSTALLED)
    config = _config(options.model, options.config)
    shape = shape_of(options)
    async with bench(
        options.model,
        program,
        shape=shape,
        concurrency=options.concurrency,
        window_s=options.window_s,
        limit_ms=options.limit_ms,
        triton=options.triton,
        config_name=options.config,
    ) as on:
        search = Search(on.rate, _clock(options.budget_minutes * 60), tell)
        before = present(config)
        best = await search.best(before, stages(config, os.cpu_count() or 1))
        return _outcome(options, shape, search.trial, on, before, best)


def _config(model: str, name: str) -> Any:
    path = server.config_path(model, name)
    if not path.is_file():
        raise ValueError(f"there is no {path}")
    return server.read_config(path.read_text())


def shape_of(options: argparse.Namespace) -> Shape:
    """Height and width of the pictures: as asked for, or what the model usually gets."""
    if options.shape:
        height, width = options.shape
        return height, width
    return SHAPES.get(server.parameter(_config(options.model, options.config), "capability"), TILE)


def _clock(seconds: float) -> Callable[[], bool]:
    began = time.monotonic()
    return lambda: time.monotonic() - began < seconds


def tell(sentence: str) -> None:
    """Progress goes to the error output; the result is the output."""
    sys.stderr.write(sentence + "\n")
    sys.stderr.flush()


def _outcome(
    options: argparse.Namespace,
    shape: Shape,
    trial: Trial,
    on: Bench,
    before: Setting,
    best: Setting,
) -> Outcome:
    last = dict(trial.races[-1].rates) if trial.races else {}
    return Outcome(
        model=options.model,
        config=options.config,
        best=best,
        before=before,
        rate=statistics.median(last.get(best) or [0.0]),
        rate_before=statistics.median(last.get(before) or [0.0]),
        conditions={
            "shape": shape,
            "concurrency": options.concurrency,
            "limit_p95_ms": options.limit_ms or None,
            "protocol": "grpc",
            "window_s": options.window_s,
            "machine": msgspec.to_builtins(machine()),
            "commit": conditions()["commit"],
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": " ".join(["just tune", *sys.argv[1:]]),
        },
        noise=trial.noise,
        races=[msgspec.to_builtins(race) for race in trial.races],
        measurements=[msgspec.to_builtins(found) for found in on.evidence],
    )
