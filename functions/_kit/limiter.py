"""Limits on the use of an outside API: requests at once, a minute, a day, over all processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from functions._kit.errors import NereidError
from functions._kit.messages import now
from functions._kit.ports import KeyValue, Turns

BUCKET = "quotas"
DAY = timedelta(days=1)

Clock = Callable[[], datetime]
Wait = Callable[[float], Awaitable[None]]
"""Returns after so many seconds."""


class QuotaSpent(NereidError):
    """The day's requests are spent (code `quota_spent`) until `resets_at`."""

    def __init__(self, message: str, resets_at: datetime) -> None:
        super().__init__("quota_spent", message)
        self.resets_at = resets_at


class NoTurn(NereidError):
    """No turn comes within the caller's patience (code `no_turn`)."""

    def __init__(self, message: str) -> None:
        super().__init__("no_turn", message)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaUsage:
    """What of the day's requests is used up, by all processes."""

    today: int
    per_day: int | None
    resets_at: datetime
    """When `today` begins at 0 again: midnight, UTC."""


class Limiter:
    """Turns for requests to an outside API; make one a process for each API.

    `at_once` holds for this process. Requests a minute and a day are counted in the bucket
    `quotas`, by compare-and-swap, so all processes that use the same `name` share them, and a
    restart forgets nothing. A minute is one of the clock: around its end twice as many requests
    may go out within 60 s.
    """

    def __init__(
        self,
        values: KeyValue,
        name: str,
        *,
        at_once: int,
        per_minute: int | None,
        per_day: int | None,
        clock: Clock = now,
        wait: Wait = asyncio.sleep,
    ) -> None:
        """`clock` and `wait` are for tests. Raises ValueError for a limit below 1."""
        limits = {"at_once": at_once, "per_minute": per_minute, "per_day": per_day}
        for limit, most in limits.items():
            if most is not None and most < 1:
                raise ValueError(f"{limit} must be at least 1, not {most}")
        self.name = name
        self._values = values
        self._per_minute = per_minute
        self._per_day = per_day
        self._clock = clock
        self._wait = wait
        self._at_once = at_once
        self._active = self._waiting = 0
        self._slots = asyncio.Semaphore(at_once)
        self._taking = asyncio.Lock()
        self._paused_until = datetime.min.replace(tzinfo=UTC)

    @asynccontextmanager
    async def turn(self, *, patience_s: float) -> AsyncIterator[None]:
        """One request may go out within the block; it counts, whatever becomes of it.

        Waits until there is room. Raises `QuotaSpent` at once where the day's
        requests are spent, `NoTurn` where the turn would come after `patience_s` seconds, and
        `Unavailable`. A caller that is cancelled while it waits has taken nothing.
        """
        deadline = self._clock() + timedelta(seconds=patience_s)
        self._waiting += 1
        try:
            async with asyncio.timeout(patience_s):
                await self._slots.acquire()
        except TimeoutError:
            raise NoTurn(
                f"{self.name}: as many requests as may run at once took longer than "
                f"{patience_s:g} s; try again later, or allow more at once"
            ) from None
        finally:
            self._waiting -= 1
        self._active += 1
        try:
            await self._count_in(deadline)
            yield
        finally:
            self._active -= 1
            self._slots.release()

    def turns(self) -> Turns:
        """How many have a turn in this process, and wait for one."""
        return Turns(at_once=self._at_once, active=self._active, waiting=self._waiting)

    def pause(self, seconds: float) -> None:
        """No turn of this process begins for so long: the API has asked for a rest."""
        until = self._clock() + timedelta(seconds=seconds)
        self._paused_until = max(self._paused_until, until)

    async def usage(self) -> QuotaUsage:
        """How much of the day's requests is used up. Raises `Unavailable`."""
        moment = self._clock()
        today, _ = await self._read(self._day_key(moment))
        return QuotaUsage(today=today, per_day=self._per_day, resets_at=_midnight_after(moment))

    async def _count_in(self, deadline: datetime) -> None:
        """Count one request in this minute and this day, when there is room."""
        while True:
            async with self._taking:  # one at a time here, so that swaps seldom lose
                moment = self._clock()
                opens_at = self._paused_until
                if opens_at <= moment:
                    opens_at = await self._try_to_count(moment)
            if opens_at <= moment:
                return
            if opens_at > deadline:
                raise NoTurn(
                    f"{self.name}: no request may go out before {opens_at:%H:%M:%S} UTC, "
                    "by the limit of a minute or at the service's wish; try again then"
                )
            await self._wait(max(0.0, (opens_at - self._clock()).total_seconds()))

    async def _try_to_count(self, moment: datetime) -> datetime:
        """Count one request; `moment` where that was possible, else when the next minute begins.

        Raises `QuotaSpent`.
        """
        today, _ = await self._read(self._day_key(moment))
        if self._per_day is not None and today >= self._per_day:
            raise self._spent(moment)
        if self._per_minute is not None:
            minute = int(moment.timestamp()) // 60
            if not await self._add(f"{self.name}.minute.{minute}", self._per_minute):
                return datetime.fromtimestamp((minute + 1) * 60, UTC)
        if not await self._add(self._day_key(moment), self._per_day):
            raise self._spent(moment)
        return moment

    async def _add(self, key: str, most: int | None) -> bool:
        """Make the number at `key` one larger, unless it is `most`."""
        while True:
            count, revision = await self._read(key)
            if most is not None and count >= most:
                return False
            if await self._values.swap(BUCKET, key, b"%d" % (count + 1), revision=revision):
                return True

    async def _read(self, key: str) -> tuple[int, int]:
        """The number at `key`, and its revision; 0 and 0 where there is none."""
        entry = await self._values.get(BUCKET, key)
        if entry is None:
            return 0, 0
        # what is no number says nothing, and is written over
        return int(entry.value) if entry.value.isdigit() else 0, entry.revision

    def _day_key(self, moment: datetime) -> str:
        return f"{self.name}.day.{moment.astimezone(UTC):%Y-%m-%d}"

    def _spent(self, moment: datetime) -> QuotaSpent:
        resets_at = _midnight_after(moment)
        return QuotaSpent(
            f"{self.name}: the {self._per_day} requests of the day are spent; "
            f"there are new ones at {resets_at:%Y-%m-%dT%H:%M:%SZ}",
            resets_at,
        )


def _midnight_after(moment: datetime) -> datetime:
    midnight = moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return midnight + DAY
