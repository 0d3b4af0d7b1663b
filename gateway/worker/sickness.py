"""Tells every other process what this worker is waiting for: a bucket whose entries die with us."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from functions._kit.errors import Unavailable
from functions._kit.messages import new_id
from functions._kit.ports import KeyValue
from gateway.adapters.background import end

log = logging.getLogger(__name__)

BUCKET = "sickness"
REPEAT_S = 10.0
"""The bucket forgets an entry that was not repeated for three times as long."""


class SicknessReport:
    """What is sick, as `<backend>.<worker>` -> a sentence, kept fresh in the bucket."""

    def __init__(self, values: KeyValue) -> None:
        self._values = values
        self._worker = new_id()
        self._sick: Mapping[str, str] = {}
        self._told: set[str] = set()
        self._changed = asyncio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Report in the background, within the block."""
        reporting = asyncio.create_task(self._report())
        try:
            yield
        finally:
            await end(reporting)
            self._sick = {}
            await self._tell()

    def tell(self, sick: Mapping[str, str]) -> None:
        """From now on `sick` is so, by backend."""
        self._sick = sick
        self._changed.set()

    async def _report(self) -> None:
        while True:
            self._changed.clear()
            await self._tell()
            try:
                async with asyncio.timeout(REPEAT_S if self._sick or self._told else None):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def _tell(self) -> None:
        sick = dict(self._sick)
        try:
            for backend in self._told - sick.keys():
                await self._values.delete(BUCKET, f"{backend}.{self._worker}")
                self._told.discard(backend)
            for backend, why in sick.items():
                await self._values.put(BUCKET, f"{backend}.{self._worker}", why.encode())
                self._told.add(backend)
        except Unavailable as error:
            log.debug("what is sick was not told: %s", error)


def reported(values: KeyValue) -> dict[str, str]:
    """What workers report as sick now, by backend."""
    return {
        key.partition(".")[0]: why.decode(errors="replace")
        for key, why in values.seen(BUCKET).items()
    }
