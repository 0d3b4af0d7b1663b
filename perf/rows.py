"""Measures what Triton serves against perf/targets.toml: `just perf`.

Prints one JSON line for each measured point with all its conditions, keeps it in perf/results/,
draws perf/results/ROW.png, and says of each target: met, missed, or not measurable here, and why.
Ends with 1 where a target is missed or a figure is worse than the accepted one.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

# run by path, with nothing of the checkout on the path but this folder
sys.path.insert(0, str(Path(__file__).parent))

import msgspec
from served import lines as kept
from served import verdict
from served.analyzer import NOT_INSTALLED, AnalyzerError, find_analyzer
from served.chart import draw
from served.lines import AnyLine, Line, LoadLine
from served.machine import machine
from served.measuring import measure_row
from served.targets import Load, Row, Targets, read_targets
from served.verdict import Verdict
from served.whole import measure_load

BUSY = 0.05  # share of the cores that others may use while we measure
Part = TypeVar("Part", Row, Load)


async def main(options: argparse.Namespace, targets: Targets) -> bool:
    """Measure what is asked for; whether all is well."""
    accepted = kept.read_lines(kept.ACCEPTED)
    measured: list[AnyLine] = []
    verdicts: list[Verdict] = []
    failed = False
    with tempfile.TemporaryDirectory(prefix="nereid-perf-") as scratch:
        for row in _wanted(options.only, targets.row):
            try:
                found, said = await _row(row, options, Path(scratch))
            except AnalyzerError as error:
                _tell(f"failed: {row.name}: {error}")
                failed = True
                continue
            measured += found
            verdicts += said
        for load in _wanted(options.only, targets.load):
            whole, said = await _load(load, options, Path(scratch))
            measured += whole
            verdicts += said
    for one in verdicts:
        print(one.sentence())
    points = [line for line in measured if isinstance(line, Line)]
    if busy := [line.row for line in points if line.core_time.others > BUSY]:
        print(f"provisional: other processes used the cores while {busy[0]} was measured")
    worse = [
        sentence
        for line in measured
        for sentence in kept.regressions(line, accepted, targets.regression)
    ]
    for sentence in worse:
        print(f"{'accepted' if options.accept else 'regression'}: {sentence}")
    if options.accept:
        kept.append(kept.ACCEPTED, measured)
    missed = any(one.outcome == "missed" for one in verdicts)
    return not failed and not missed and (options.accept or not worse)


def _wanted(only: Sequence[str], parts: Sequence[Part]) -> list[Part]:
    return [part for part in parts if not only or part.name in only]


async def _row(
    row: Row, options: argparse.Namespace, scratch: Path
) -> tuple[list[Line], list[Verdict]]:
    program = find_analyzer()
    why = verdict.why_not_row(row, machine(), analyzer=program is not None, triton=options.triton)
    if why or program is None:
        return [], verdict.row_not_measured(row, why)
    found = await measure_row(
        row, program, runs=options.runs, triton=options.triton, scratch=scratch, say=_tell
    )
    _keep(found)
    _tell(f"drawn: {draw(row, found, kept.RESULTS / f'{row.name}.png')}")
    return found, verdict.of_row(row, found)


def _keep(lines: Sequence[AnyLine]) -> None:
    for line in lines:
        print(msgspec.json.encode(line).decode(), flush=True)
    kept.append(kept.MEASURED, lines)


async def _load(
    load: Load, options: argparse.Namespace, scratch: Path
) -> tuple[list[LoadLine], list[Verdict]]:
    lines: list[LoadLine] = []
    verdicts: list[Verdict] = []
    for gpus in sorted({target.gpus for target in load.target}):
        if why := verdict.why_not_load(gpus, machine(), options.triton):
            verdicts += verdict.load_not_measured(load, gpus, why)
            continue
        line = await measure_load(load, gpus, scratch, triton=options.triton)
        _keep([line])
        lines.append(line)
        verdicts += verdict.of_load(load, gpus, line.figures, line.missing)
    return lines, verdicts


def _tell(sentence: str) -> None:
    sys.stderr.write(sentence + "\n")


def arguments(targets: Targets, words: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="just perf", description=__doc__)
    parser.add_argument(
        "--only", action="append", default=[], choices=targets.names(), help="may be repeated"
    )
    parser.add_argument("--runs", type=int, default=3, help="measurements of each point")
    parser.add_argument("--accept", action="store_true", help="compare later runs with this one")
    parser.add_argument("--triton", default="", help="host:port of Triton on GPUs, for their rows")
    return parser.parse_args(words)


if __name__ == "__main__":
    file = read_targets()
    asked = arguments(file, sys.argv[1:])
    if find_analyzer() is None:
        _tell(NOT_INSTALLED)
    try:
        sys.exit(0 if asyncio.run(main(asked, file)) else 1)
    except KeyboardInterrupt:
        sys.exit(130)
