"""What `just fuzz` asks for; without it, a short run that is always the same."""

from __future__ import annotations

import os
from pathlib import Path

MINUTES = float(os.environ.get("FUZZ_MINUTES", "0"))
SEED = int(os.environ["FUZZ_SEED"]) if "FUZZ_SEED" in os.environ else None
FINDINGS = Path(os.environ["FUZZ_FINDINGS"]) if "FUZZ_FINDINGS" in os.environ else None


def seed(otherwise: int) -> int:
    """The seed that is asked for, or the test's own."""
    return otherwise if SEED is None else SEED


def times(short: int, a_minute: int) -> int:
    """How much to do: `short`, or so much for each minute."""
    return max(short, round(a_minute * MINUTES))
