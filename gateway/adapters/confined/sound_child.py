"""The child process that converts sound."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from functions._kit.sound import convert
from gateway.adapters.confined import child
from gateway.adapters.confined.confine import give_way, limit_memory
from gateway.adapters.confined.messages import AnyWork, Convert, Done

MEMORY_BYTES = 384 << 20
"""What a conversion may take beyond what this process has when it starts; most take 20 MB."""


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
    give_way()
    limit_memory(MEMORY_BYTES)
    child.run(do)


if __name__ == "__main__":
    main()
