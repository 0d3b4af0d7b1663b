"""Counts of a camera's frames in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


class FakeTally:
    """Counts as `StreamTally` does, and tells nobody."""

    def __init__(self) -> None:
        self.sums: Counter[tuple[str, str]] = Counter()
        """Every count by camera and name, whatever the hour."""
        self._in_hand: Counter[str] = Counter()

    def add(self, camera_id: str, name: str, count: int = 1) -> None:
        """See `Tally.add`."""
        self.sums[camera_id, name] += count

    @contextmanager
    def in_hand(self, camera_id: str) -> Iterator[None]:
        """See `Tally.in_hand`."""
        self._in_hand[camera_id] += 1
        try:
            yield
        finally:
            self._in_hand[camera_id] -= 1

    def frames_in_hand(self, camera_id: str) -> int:
        """See `Tally.frames_in_hand`."""
        return self._in_hand[camera_id]
