"""Waiting for a sick backend to be well again."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping

from functions._kit.errors import Unavailable

log = logging.getLogger(__name__)

PROBE_TIMEOUT_S = 5.0
WAITS_S = (0.25, 0.5, 1.0, 2.0)
"""Pauses before the probes; the last one repeats."""

Probe = Callable[[], Awaitable[bool]]


class Infirmary:
    """Knows which backends are sick. One for a process: a sickness that one job meets holds all."""

    def __init__(self, probes: Mapping[str, Probe]) -> None:
        self._probes = probes
        self._recoveries: dict[str, asyncio.Task[bool]] = {}

    async def until_well(self, error: Unavailable) -> bool:
        """Return when the backend that `error` names answers its probe.

        True where it answered the first one: it is well, and failed this caller alone.
        """
        recovery = self._recoveries.get(error.backend)
        if recovery is None:
            log.warning("%s: %s", error.code, error.message)
            recovery = asyncio.create_task(self._recover(error.backend))
            self._recoveries[error.backend] = recovery
        return await asyncio.shield(recovery)

    async def all_well(self, backends: Collection[str]) -> None:
        """Return when none of `backends` is known to be sick."""
        while sick := [self._recoveries[name] for name in backends if name in self._recoveries]:
            await asyncio.wait(sick)

    async def close(self) -> None:
        """Stop probing."""
        for recovery in list(self._recoveries.values()):
            recovery.cancel()
        await asyncio.gather(*self._recoveries.values(), return_exceptions=True)

    async def _recover(self, backend: str) -> bool:
        probe = self._probes.get(backend)
        try:
            for turn in itertools.count():
                await asyncio.sleep(WAITS_S[min(turn, len(WAITS_S) - 1)])
                if probe is None or await self._answers(probe):
                    if turn:
                        log.warning("%s is well again", backend)
                    return turn == 0
            raise AssertionError
        finally:
            del self._recoveries[backend]

    @staticmethod
    async def _answers(probe: Probe) -> bool:
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                return await probe()
        except (TimeoutError, Unavailable):
            return False
