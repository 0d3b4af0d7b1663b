"""Against guessing secrets: wrong ones are counted for the client they are tried on."""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from weakref import WeakValueDictionary

from functions._kit.errors import TooManyRequests
from functions._kit.throttle import Throttle

HOUR_S = 3600.0
MOST_FAMILIAR = 10_000


class Guesses:
    """Wrong secrets for one client id are few, from however many addresses and however slowly.

    An address that has given the id's right secret before is familiar: it goes on, so that
    whoever guesses cannot lock the client out of where it is. An id that does not exist is
    counted like any other, so that nothing tells which do.
    """

    def __init__(self, per_hour: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`per_hour` wrong secrets for one id in an hour. `clock` is for tests."""
        self._wrong = Throttle(per_hour, HOUR_S, clock=clock)
        self._familiar: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def turn(self, client_id: str, address: str) -> AbstractAsyncContextManager[None]:
        """Within it an unfamiliar address tries its secret, from `check` to `wrong` or `right`.

        One at a time for each id: else many at once would all pass before the first is counted.
        """
        if (client_id, address) in self._familiar:
            return nullcontext()
        lock = self._turns.get(client_id)
        if lock is None:
            lock = self._turns[client_id] = asyncio.Lock()
        return lock

    def check(self, client_id: str, address: str) -> None:
        """Raise `TooManyRequests` (`too_many_attempts`) where no more may be tried now."""
        if (client_id, address) in self._familiar:
            return
        wait_s = self._wrong.wait_s(client_id)
        if wait_s > 0:
            raise TooManyRequests(
                "too_many_attempts",
                "too many wrong secrets were given for this client_id; try again later",
                retry_after_s=math.ceil(wait_s),
            )

    def wrong(self, client_id: str) -> None:
        """A wrong secret was given."""
        self._wrong.take(client_id)

    def right(self, client_id: str, address: str) -> None:
        """The right secret was given."""
        self._familiar[client_id, address] = None
        self._familiar.move_to_end((client_id, address))
        if len(self._familiar) > MOST_FAMILIAR:
            self._familiar.popitem(last=False)
