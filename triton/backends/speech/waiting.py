"""Requests in hand that no stream has begun, the most urgent and then the oldest first."""

from __future__ import annotations

import threading
from collections import deque

LEVELS = (1, 2, 3)


class Job:
    """What waits: how urgent it is (1 most), and how many seconds of sound it holds."""

    def __init__(self, priority: int, seconds: float) -> None:
        self.priority = min(max(priority, LEVELS[0]), LEVELS[-1])
        self.seconds = seconds


class WaitingRoom:
    """Forms batches of one priority each, and says when Triton may bring more."""

    def __init__(self, *, rows: int, batch_s: float, waiting_s: float) -> None:
        """A batch has at most `rows` jobs, and `batch_s` seconds or one job."""
        self._rows, self._batch_s, self._waiting_s = rows, batch_s, waiting_s
        self._levels: dict[int, deque[Job]] = {level: deque() for level in LEVELS}
        self._seconds = 0.0
        self._closed = False
        self._changed = threading.Condition()

    def add(self, job: Job) -> None:
        """Let a job wait."""
        with self._changed:
            self._levels[job.priority].append(job)
            self._seconds += job.seconds
            self._changed.notify_all()

    def wait_for_room(self) -> None:
        """Return when less waits than may."""
        with self._changed:
            self._changed.wait_for(lambda: self._seconds < self._waiting_s)

    def take(self) -> list[Job]:
        """The next batch, as soon as there is one; nothing when the room is closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or any(self._levels.values()))
            return self._next(LEVELS[-1])

    def take_more_urgent(self, priority: int) -> list[Job]:
        """The next batch of those more urgent than `priority`; nothing where none waits."""
        if priority == LEVELS[0]:
            return []
        with self._changed:
            return self._next(priority - 1)

    def close(self) -> None:
        """Nothing is added any more; what waits is still given out."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _next(self, least: int) -> list[Job]:
        """The oldest jobs of the most urgent level, down to `least`."""
        queue = next(
            (self._levels[level] for level in range(1, least + 1) if self._levels[level]), None
        )
        batch: list[Job] = []
        longest = 0.0
        while queue and len(batch) < self._rows:
            longest = max(longest, queue[0].seconds)
            if batch and longest * (len(batch) + 1) > self._batch_s:
                break
            batch.append(queue.popleft())
        self._seconds -= sum(job.seconds for job in batch)
        self._changed.notify_all()
        return batch
