"""Waiting for a sick backend to be well again, and telling of it."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping

from functions._kit.errors import OutOfMemory, Unavailable
from gateway.adapters.background import end

log = logging.getLogger(__name__)

PROBE_TIMEOUT_S = 5.0
WAITS_S = (0.25, 0.5, 1.0, 2.0)
"""Pauses before the probes; the last one repeats."""
WATCH_S = 0.25
"""How often it is looked whether a backend without memory answers requests again."""
FORGET_S = 120.0
"""A lack of memory that no request has met for so long is over: perhaps nobody is left to ask."""

Probe = Callable[[], Awaitable[bool]]
Answered = Callable[[], int]
"""How many requests a backend has answered so far."""
Tell = Callable[[Mapping[str, str]], None]
"""Hears what is sick and why, whenever that changes."""


class Infirmary:
    """Knows which backends are sick. One for a process: a sickness that one job meets holds all.

    A backend that is out of memory answers its probe; that it is well shows in `answered`.
    """

    def __init__(
        self,
        probes: Mapping[str, Probe],
        answered: Mapping[str, Answered] | None = None,
        tell: Tell | None = None,
    ) -> None:
        self._probes = probes
        self._answered = answered or {}
        self._tell = tell or (lambda _: None)
        self._recoveries: dict[str, asyncio.Task[bool]] = {}
        self._relapses: Counter[str] = Counter()
        self._watches: dict[str, asyncio.Task[None]] = {}
        self._sick: dict[str, str] = {}

    @property
    def backends(self) -> frozenset[str]:
        """Those that have a probe."""
        return frozenset(self._probes)

    @property
    def sick(self) -> Mapping[str, str]:
        """What is sick now, and why."""
        return self._sick

    async def until_well(self, error: Unavailable) -> bool:
        """Return when the backend that `error` names answers its probe.

        True where it answered the first one: it is well, and failed this caller alone.
        """
        recovery = self._recoveries.get(error.backend)
        if recovery is None:
            log.warning("%s: %s", error.code, error.message)
            recovery = asyncio.create_task(self._recover(error))
            self._recoveries[error.backend] = recovery
        return await asyncio.shield(recovery)

    async def all_well(self, backends: Collection[str]) -> None:
        """Return when none of `backends` is known to be sick."""
        while sick := [self._recoveries[name] for name in backends if name in self._recoveries]:
            await asyncio.wait(sick)

    def answers(self) -> dict[str, int]:
        """How many requests each backend has answered so far, where that is known."""
        return {name: answered() for name, answered in self._answered.items()}

    async def close(self) -> None:
        """Stop probing."""
        await end(*self._recoveries.values(), *self._watches.values())

    async def _recover(self, error: Unavailable) -> bool:
        """Probe until well. The probe of one without memory succeeds: each relapse waits longer."""
        backend = error.backend
        probe = self._probes.get(backend)
        before = self._relapses[backend]
        if isinstance(error, OutOfMemory):
            self._relapses[backend] += 1
            self._is_sick(backend, error.message)
            if backend not in self._watches:
                self._watches[backend] = asyncio.create_task(self._watch(backend))
        try:
            for turn in itertools.count():
                await asyncio.sleep(WAITS_S[min(before + turn, len(WAITS_S) - 1)])
                if probe is None or await self._answers(probe):
                    if turn:
                        log.warning("%s is well again", backend)
                    if backend not in self._relapses:
                        self._is_well(backend)
                    return turn == 0
                self._is_sick(backend, error.message)
            raise AssertionError
        finally:
            del self._recoveries[backend]

    async def _watch(self, backend: str) -> None:
        """End a lack of memory as soon as a request is answered, or none has met it for long."""
        before = self.answers().get(backend, 0)
        seen, last_seen = 0, 0.0
        while self.answers().get(backend, 0) <= before:
            now = time.monotonic()
            if self._relapses[backend] != seen:
                seen, last_seen = self._relapses[backend], now
            if now - last_seen > FORGET_S:
                break
            await asyncio.sleep(WATCH_S)
        del self._relapses[backend], self._watches[backend]
        log.warning("%s is not known to lack memory any more", backend)
        if backend not in self._recoveries:
            self._is_well(backend)

    def _is_sick(self, backend: str, why: str) -> None:
        if self._sick.get(backend) != why:
            self._sick[backend] = why
            self._tell(dict(self._sick))

    def _is_well(self, backend: str) -> None:
        if self._sick.pop(backend, None) is not None:
            self._tell(dict(self._sick))

    @staticmethod
    async def _answers(probe: Probe) -> bool:
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                return await probe()
        except (TimeoutError, Unavailable):
            return False
