"""The child process that converts sound."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from functions._kit.sound import convert
from gateway.adapters.confined import child
from gateway.adapters.confined.confine import limit_memory
from gateway.adapters.confined.messages import AnyWork, Convert, Done

MEMORY_BYTES = 384 << 20
"""What a conversion may take beyond what this process has when it starts; most take 20 MB."""
NICE = 5
"""Whoever answers HTTP comes first where cores are short."""


def do(work: AnyWork, on_progress: Callable[[float], None]) -> Done:
    """The conversion."""
    if not isinstance(work, Convert):
        raise TypeError(f"no work of this child: {work}")
    sound = convert(
        Path(work.source),
        Path(work.into),
        work.target,
        longest_s=work.longest_s,
        on_progress=on_progress,
    )
    return Done(sound)


def main() -> None:
    """Until the parent has no more work."""
    os.nice(NICE)
    limit_memory(MEMORY_BYTES)
    child.run(do)


if __name__ == "__main__":
    main()
