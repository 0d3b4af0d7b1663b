"""Limits on how often: so many in a time for each key, in bounded memory."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

MOST_KEYS = 100_000
"""Some 20 MB. Beyond, the key that has rested longest is forgotten, and may begin anew."""
ROUNDING_S = 1e-6


class Throttle:
    """Lets `amount` through for each key in `per_s` seconds, all at once after a rest.

    The generic cell rate algorithm: one number a key, the time by which all that it has taken is
    paid off. Litestar's own limiter keeps every request's time of every key, without a bound.
    """

    def __init__(
        self,
        amount: int,
        per_s: float,
        *,
        most_keys: int = MOST_KEYS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`clock` is for tests. Raises ValueError for an amount below 1."""
        if amount < 1:
            raise ValueError(f"amount must be at least 1, not {amount}")
        self._cost_s = per_s / amount
        self._patience_s = per_s - self._cost_s
        self._most_keys = most_keys
        self._clock = clock
        self._paid_at: OrderedDict[str, float] = OrderedDict()

    def wait_s(self, key: str) -> float:
        """Seconds until `key` may take one more; 0 where it may now."""
        wait_s = self._paid_at.get(key, 0.0) - self._clock() - self._patience_s
        return wait_s if wait_s > ROUNDING_S else 0.0

    def take(self, key: str) -> float:
        """Take one and return 0, or take nothing and return the seconds until there is room."""
        wait_s = self.wait_s(key)
        if wait_s > 0:
            return wait_s
        self._paid_at[key] = max(self._clock(), self._paid_at.get(key, 0.0)) + self._cost_s
        self._paid_at.move_to_end(key)
        if len(self._paid_at) > self._most_keys:
            self._paid_at.popitem(last=False)
        return 0.0
