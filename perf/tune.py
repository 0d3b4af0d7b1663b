"""Finds a model's best settings on this machine: `just tune MODEL`.

Tries instances, streams, the largest batch and the queue delay with perf_analyzer, writes the best
within the latency limit into MODEL/config.pbtxt, and what speaks for it into MODEL/tuning.json.
"""

from __future__ import annotations

import asyncio
import difflib
import sys
from pathlib import Path

# run by path, with nothing of the checkout on the path but this folder
sys.path.insert(0, str(Path(__file__).parent))

import msgspec
from google.protobuf import text_format  # type: ignore[import-untyped]
from served import server
from served.analyzer import AnalyzerError
from tuning.config_text import EditError, edited
from tuning.tuner import Outcome, arguments, tune


def finish(outcome: Outcome, *, dry_run: bool) -> None:
    """Print the change, and make it."""
    path = server.config_path(outcome.model, outcome.config)
    old = path.read_text()
    new = old if outcome.best == outcome.before else edited(old, outcome.best)
    evidence = msgspec.json.format(msgspec.json.encode(outcome), indent=1) + b"\n"
    change = difflib.unified_diff(
        old.splitlines(keepends=True), new.splitlines(keepends=True), "before", "tuned", n=0
    )
    sys.stdout.writelines(change)
    if outcome.best == outcome.before:
        print(f"nothing beats the setting that stands: {outcome.best.words()}")
    else:
        gain = outcome.rate / outcome.rate_before - 1 if outcome.rate_before else 0.0
        print(f"{outcome.rate:.2f}/s, {gain:+.1%} over {outcome.before.words()}")
    if dry_run:
        return
    path.write_text(new)
    beside = (
        server.REPOSITORY / outcome.model / f"tuning{outcome.config and '-'}{outcome.config}.json"
    )
    beside.write_bytes(evidence)
    print(f"written: {path}, {beside}")


if __name__ == "__main__":
    asked = arguments(sys.argv[1:])
    try:
        finish(asyncio.run(tune(asked)), dry_run=asked.dry_run)
    except (AnalyzerError, EditError, ValueError, text_format.ParseError) as error:
        sys.exit(f"tune: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
