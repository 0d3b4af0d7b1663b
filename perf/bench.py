"""Measures Nereid on this machine: `just bench NAME`.

Prints one JSON line a row, with all conditions, and ratios against the limits; with --keep, adds
the lines to perf/results/NAME.jsonl, which is in git. Whatever is compared is measured in the same
run, turn about, so that a machine that slows down slows both.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

# run by path, with nothing of the checkout on the path but this folder
sys.path.insert(0, str(Path(__file__).parent))

from benches.alerts import alerts, burst
from benches.audio import audio
from benches.conversions import conversions
from benches.endurance import endurance
from benches.leader import leader, lease
from benches.photos import memory, prompt, upscale
from benches.priority import priority
from benches.recording import recording
from benches.rollouts import cycles, rollouts
from benches.start import start
from benches.status import status
from measure import keeping
from tuning.compare import tune

BENCHMARKS = {
    function.__name__: function
    for function in (
        upscale,
        memory,
        prompt,
        alerts,
        burst,
        recording,
        audio,
        conversions,
        rollouts,
        cycles,
        start,
        endurance,
        leader,
        lease,
        priority,
        status,
        tune,
    )
}


def main() -> None:
    """Run one benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=sorted(BENCHMARKS))
    parser.add_argument("--runs", type=int, default=5, help="measurements of each row")
    parser.add_argument("--at-once", type=int, default=8, help="upscale: tasks at once")
    parser.add_argument("--frames", type=int, default=600, help="alerts: frames of one run")
    parser.add_argument("--minutes", type=float, default=15, help="endurance: how long")
    parser.add_argument("--waiting", type=int, default=5000, help="priority: tasks that wait")
    parser.add_argument("--peer-python", type=Path, help="Python with the extra `peers` installed")
    parser.add_argument("--keep", action="store_true", help="add rows to perf/results/WHAT.jsonl")
    options = parser.parse_args()
    with keeping(options.what, keep=options.keep):
        asyncio.run(BENCHMARKS[options.what](options))


if __name__ == "__main__":
    main()
