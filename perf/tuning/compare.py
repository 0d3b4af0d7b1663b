"""`just bench tune`: what `just tune` finds, against the best of a grid made by hand."""

from __future__ import annotations

import argparse
import itertools
import statistics

import msgspec
from measure import say
from served.analyzer import NOT_INSTALLED, find_analyzer
from tuning.bench import bench
from tuning.search import Search
from tuning.setting import Setting
from tuning.tuner import arguments, shape_of, tell
from tuning.tuner import tune as search_settings

MODEL = "nanodet-g-416"
GRID = [
    Setting(instances=instances, streams=streams, max_batch=batch, delay_us=delay)
    for instances, streams, batch, delay in itertools.product((1, 2), (1, 2, 4), (1, 8), (0, 1000))
]
ENOUGH = 0.95


async def tune(options: argparse.Namespace) -> None:
    """Tune the detector, then race the result against the grid, turn about."""
    program = find_analyzer()
    if program is None:
        raise SystemExit(f"tune: {NOT_INSTALLED}")
    asked = arguments([MODEL, "--dry-run"])
    outcome = await search_settings(asked)
    async with bench(
        MODEL,
        program,
        shape=shape_of(asked),
        concurrency=asked.concurrency,
        window_s=asked.window_s,
        limit_ms=asked.limit_ms,
    ) as on:
        search = Search(on.rate, lambda: True, tell)
        await search.race(outcome.best, GRID, rounds=max(2, options.runs))
    rates = dict(search.trial.races[-1].rates)
    longest = max(len(found) for found in rates.values())
    by_hand = {
        setting: statistics.median(rates[setting])
        for setting in GRID
        if len(rates[setting]) == longest
    }
    tuned = statistics.median(rates[outcome.best])
    best = max(by_hand, key=by_hand.__getitem__, default=outcome.best)
    reached = tuned / by_hand.get(best, tuned)
    say(
        "tune.ratio",
        model=MODEL,
        tuned=msgspec.to_builtins(outcome.best),
        tuned_per_s=round(tuned, 2),
        by_hand=msgspec.to_builtins(best),
        by_hand_per_s=round(by_hand.get(best, tuned), 2),
        grid=len(GRID),
        runs=longest,
        concurrency=asked.concurrency,
        ratio=round(reached, 3),
        limit=f">= {ENOUGH}",
        met=reached >= ENOUGH,
    )
