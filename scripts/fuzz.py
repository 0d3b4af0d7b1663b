"""Feeds Nereid with bad data for as long as is asked for: `just fuzz 10 --seed 3`.

Damaged pictures and sounds through the confined children, mistyped messages on every subject, and
requests made from the OpenAPI document. All of it is made from the seed, which is printed; files
that break a rule are kept in .cache/findings.
"""

from __future__ import annotations

import argparse
import os
import secrets
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
FINDINGS = CHECKOUT / ".cache" / "findings"
TESTS = ("tests/fuzz", "tests/gateway/test_subject_fuzz.py", "tests/functions/test_described.py")


def main() -> int:
    """0 where nothing was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("minutes", type=float, nargs="?", default=5.0)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000))
    options = parser.parse_args()
    again = f"just fuzz {options.minutes:g} --seed {options.seed}"
    print(f"seed {options.seed}: {again}", flush=True)
    environment = {
        "FUZZ_MINUTES": str(options.minutes),
        "FUZZ_SEED": str(options.seed),
        "FUZZ_FINDINGS": str(FINDINGS),
    }
    command = [str(Path(sys.executable).with_name("pytest")), "-q", "-s", "--show-capture=no"]
    done = subprocess.run(
        [*command, *TESTS], cwd=CHECKOUT, env=os.environ | environment, check=False
    )
    if done.returncode:
        print(f"something was found: {again} repeats it, and {FINDINGS} keeps its files")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
