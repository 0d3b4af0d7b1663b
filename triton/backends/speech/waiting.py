"""Requests in hand that no stream has begun, the most urgent and then the oldest first."""

from __future__ import annotations

import threading
from collections import deque

LEVELS = (1, 2, 3)
# Beyond `waiting_s`, one request in so many seconds is taken in: the most urgent of Triton's queue,
# which must not wait there until a whole batch has ended.
PAUSE_S = 0.2


class Job:
    """What waits: how urgent it is (1 most), and how many seconds of sound it holds."""

    def __init__(self, priority: int, seconds: float) -> None:
        self.priority = priority
        self.seconds = seconds


class WaitingRoom:
    """Forms batches of one priority each, and says when Triton may bring more."""

    def __init__(self, *, streams: int, rows: int, batch_s: float, waiting_s: float) -> None:
        """A batch has at most `rows` jobs, and `batch_s` seconds or one job."""
        self._streams, self._rows = streams, rows
        self._batch_s, self._waiting_s = batch_s, waiting_s
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
        """Return when less waits than may; sooner or later for the next most urgent job."""
        with self._changed:
            self._changed.wait_for(lambda: self._seconds < self._waiting_s, timeout=PAUSE_S)
            self._changed.wait_for(lambda: self._seconds < 2 * self._waiting_s)

    def take(self) -> list[Job]:
        """The next batch, as soon as there is one; nothing when the room is closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or any(self._levels.values()))
            return self._next(LEVELS)

    def take_more_urgent(self, priority: int) -> list[Job]:
        """The next batch of those more urgent than `priority`; nothing where none waits."""
        with self._changed:
            return self._next(tuple(level for level in LEVELS if level < priority))

    def close(self) -> None:
        """Nothing is added any more; what waits is still given out."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _next(self, levels: tuple[int, ...]) -> list[Job]:
        """The oldest jobs of the most urgent level, no more than leaves as many for the others."""
        queue = next((self._levels[level] for level in levels if self._levels[level]), deque())
        rows = min(self._rows, -(-len(queue) // self._streams))
        batch: list[Job] = []
        longest = 0.0
        while len(batch) < rows:
            longest = max(longest, queue[0].seconds)
            if batch and longest * (len(batch) + 1) > self._batch_s:
                break
            batch.append(queue.popleft())
        if batch:
            self._seconds -= sum(job.seconds for job in batch)
            self._changed.notify_all()
        return batch
