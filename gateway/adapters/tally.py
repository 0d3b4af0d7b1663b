"""The port `Tally`: counts in memory, told as facts every few seconds."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime, timedelta

from functions._kit.errors import Unavailable
from functions._kit.messages import new_id, now
from functions._kit.ports import Stream
from functions.alerts.contracts import COUNTS_SUBJECT, Counts, CountsEvent
from gateway.adapters.background import end

log = logging.getLogger(__name__)

TELL_S = 2.0
"""Counts that have changed are told this often."""
FORGET_AFTER = timedelta(hours=2)
MOST_IN_A_MESSAGE = 1000
"""Counts of some 200 bytes each: well below NATS's limit of 1 MiB."""


class StreamTally:
    """The sums of this process since its start, by camera, hour and name."""

    def __init__(self, stream: Stream, clock: Callable[[], datetime] = now) -> None:
        self.source = new_id()
        self._stream = stream
        self._clock = clock
        self._sums: Counter[tuple[str, datetime, str]] = Counter()
        self._told: dict[tuple[str, datetime, str], int] = {}
        self._in_hand: Counter[str] = Counter()

    def add(self, camera_id: str, name: str, count: int = 1) -> None:
        """See `Tally.add`."""
        hour = self._clock().replace(minute=0, second=0, microsecond=0)
        self._sums[camera_id, hour, name] += count

    @contextmanager
    def in_hand(self, camera_id: str) -> Iterator[None]:
        """See `Tally.in_hand`."""
        self._in_hand[camera_id] += 1
        try:
            yield
        finally:
            self._in_hand[camera_id] -= 1
            if not self._in_hand[camera_id]:
                del self._in_hand[camera_id]

    def frames_in_hand(self, camera_id: str) -> int:
        """See `Tally.frames_in_hand`."""
        return self._in_hand[camera_id]

    async def tell(self) -> None:
        """Publish the sums that have changed since they were told, and forget old hours.

        Raises `Unavailable`; what could not be told stays, for the next time.
        """
        changed = [key for key, count in self._sums.items() if self._told.get(key) != count]
        for at in range(0, len(changed), MOST_IN_A_MESSAGE):
            counts = {key: self._sums[key] for key in changed[at : at + MOST_IN_A_MESSAGE]}
            event = CountsEvent(
                counts=tuple(
                    Counts(source=self.source, camera_id=camera, hour=hour, name=name, count=count)
                    for (camera, hour, name), count in counts.items()
                )
            )
            await self._stream.publish(COUNTS_SUBJECT, event)
            self._told |= counts
        oldest = self._clock() - FORGET_AFTER
        for key in [key for key in self._told if key[1] < oldest]:
            if self._told[key] == self._sums[key]:
                del self._told[key], self._sums[key]

    async def keep_telling(self) -> None:
        """Tell every `TELL_S` seconds, for ever."""
        while True:
            await asyncio.sleep(TELL_S)
            try:
                await self.tell()
            except Unavailable as error:
                log.info("counts wait to be told: %s", error)


@asynccontextmanager
async def open_tally(stream: Stream) -> AsyncIterator[StreamTally]:
    """Counts that are told while the block runs, and once more at its end."""
    tally = StreamTally(stream)
    telling = asyncio.create_task(tally.keep_telling())
    try:
        yield tally
    finally:
        await end(telling)
        try:
            await tally.tell()
        except Unavailable as error:
            log.warning("the last counts of this process are lost: %s", error)
