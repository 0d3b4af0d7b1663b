"""The port `Figures`: counts in memory, which all processes see in a key-value bucket."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace

import msgspec

from functions._kit.errors import Unavailable
from functions._kit.messages import NO_JSON, new_id, now
from functions._kit.ports import (
    AudioConverter,
    KeyValue,
    ProcessFigures,
    TranscriptionFigures,
    Usage,
)
from gateway.adapters.background import end
from gateway.adapters.usage import UsageMeter

log = logging.getLogger(__name__)

BUCKET = "figures"
TELL_S = 1.0
"""Figures that have changed are told this often."""
AGAIN_S = 10.0
"""Others are told this often, well within the bucket's lifetime; CPU and memory with them."""
MEASURE_S = 2.0
"""How often CPU and memory are read."""

_decode = msgspec.json.Decoder(ProcessFigures).decode


class KeyValueFigures:
    """The figures of this process, and what others tell of theirs."""

    def __init__(self, values: KeyValue, converter: AudioConverter, name: str, role: str) -> None:
        self.process_id = new_id()
        self._values = values
        self._converter = converter
        self._name, self._role = name, role
        self._since = now()
        self._transcribing = 0
        self._transcriptions = TranscriptionFigures()
        self._meter = UsageMeter()
        self._usage = Usage()
        self._measured_at = time.monotonic()
        self._told: ProcessFigures | None = None
        self._told_at = 0.0

    @contextmanager
    def transcribing(self) -> Iterator[None]:
        """See `Figures.transcribing`."""
        self._transcribing += 1
        try:
            yield
        finally:
            self._transcribing -= 1

    def add_transcription(self, audio_s: float, time_s: float) -> None:
        """See `Figures.add_transcription`."""
        so_far = self._transcriptions
        self._transcriptions = replace(
            so_far,
            completed=so_far.completed + 1,
            audio_s=so_far.audio_s + audio_s,
            total_time_s=so_far.total_time_s + time_s,
        )

    def all(self) -> list[ProcessFigures]:
        """See `Figures.all`."""
        seen = self._values.seen(BUCKET)
        found = [self._own()]
        for process_id in sorted(seen):
            value = seen.get(process_id)  # its time may be over by now
            if process_id != self.process_id and value is not None:
                try:
                    found.append(_decode(value))
                except NO_JSON as error:
                    log.warning("the figures of %s cannot be read: %s", process_id, error)
        return found

    async def tell(self) -> None:
        """Publish the figures, if they have changed or it is time. Raises `Unavailable`."""
        own = self._own()
        if self._told is not None and time.monotonic() < self._told_at + AGAIN_S:
            told = (self._told.conversions, self._told.transcriptions)
            if told == (own.conversions, own.transcriptions):
                return
        await self._values.put(BUCKET, self.process_id, msgspec.json.encode(own))
        self._told, self._told_at = own, time.monotonic()

    async def measure(self) -> None:
        """Read what this process takes, if that was not done lately."""
        if time.monotonic() >= self._measured_at + MEASURE_S:
            self._usage = await asyncio.to_thread(self._meter.read)
            self._measured_at = time.monotonic()

    async def keep_telling(self) -> None:
        """Measure and tell every `TELL_S` seconds, for ever."""
        while True:
            try:
                await self.measure()
                await self.tell()
            except Unavailable as error:
                log.info("figures wait to be told: %s", error)
            await asyncio.sleep(TELL_S)

    async def withdraw(self) -> None:
        """Tell the others that this process is gone. Raises `Unavailable`."""
        await self._values.delete(BUCKET, self.process_id)

    def _own(self) -> ProcessFigures:
        return ProcessFigures(
            process_id=self.process_id,
            name=self._name,
            role=self._role,
            since=self._since,
            conversions=self._converter.figures(),
            transcriptions=replace(self._transcriptions, active=self._transcribing),
            usage=self._usage,
        )


@asynccontextmanager
async def open_figures(
    values: KeyValue, converter: AudioConverter, name: str, role: str
) -> AsyncIterator[KeyValueFigures]:
    """Figures that are told while the block runs, and withdrawn at its end."""
    figures = KeyValueFigures(values, converter, name, role)
    telling = asyncio.create_task(figures.keep_telling())
    try:
        yield figures
    finally:
        await end(telling)
        with suppress(Unavailable):  # they end by themselves
            await figures.withdraw()
