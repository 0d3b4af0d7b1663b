"""Events of security in the log: who was refused what, each once a minute and then counted."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable

log = logging.getLogger("nereid.security")

QUIET_S = 60.0
"""An event that comes again within this time is counted, and told with the next one."""
MOST_KEPT = 10_000


class SecurityEvents:
    """Tells events by kind, client and address; a flood of one makes a line a minute."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._told: OrderedDict[tuple[str, str, str], tuple[float, int]] = OrderedDict()

    def tell(
        self,
        kind: str,
        *,
        client: str | None,
        address: str,
        level: int = logging.WARNING,
        quiet_s: float = QUIET_S,
    ) -> None:
        """`kind` is the stable code of what happened; `client` None where nobody knows who it was.

        Names come from outside: they are written as literals, so that none can forge a line.
        """
        key = (kind, client or "", address)
        now = self._clock()
        at, missed = self._told.get(key, (-quiet_s, 0))
        if now - at < quiet_s:
            self._told[key] = (at, missed + 1)
            return
        self._told[key] = (now, 0)
        self._told.move_to_end(key)
        if len(self._told) > MOST_KEPT:
            self._told.popitem(last=False)
        more = f" ({missed} more since the last line)" if missed else ""
        log.log(level, "%s: client %r at %s%s", kind, client, address, more)
