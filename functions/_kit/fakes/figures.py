"""Figures of processes in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from functions._kit.messages import new_id, now
from functions._kit.ports import (
    AudioConverter,
    ProcessFigures,
    TranscriptionFigures,
    Usage,
)


class FakeFigures:
    """Counts as `KeyValueFigures` does; other processes are those that a test adds."""

    def __init__(self, converter: AudioConverter) -> None:
        self.others: list[ProcessFigures] = []
        """What the other processes tell."""
        self.usage = Usage()
        self._converter = converter
        self._process_id, self._since = new_id(), now()
        self._transcriptions = TranscriptionFigures()

    @contextmanager
    def transcribing(self) -> Iterator[None]:
        """See `Figures.transcribing`."""
        self._add(active=1)
        try:
            yield
        finally:
            self._add(active=-1)

    def add_transcription(self, audio_s: float, time_s: float) -> None:
        """See `Figures.add_transcription`."""
        self._add(completed=1, audio_s=audio_s, total_time_s=time_s)

    def all(self) -> list[ProcessFigures]:
        """See `Figures.all`."""
        own = ProcessFigures(
            process_id=self._process_id,
            name="fake",
            role="serve",
            since=self._since,
            conversions=self._converter.figures(),
            transcriptions=self._transcriptions,
            usage=self.usage,
        )
        return [own, *self.others]

    def _add(
        self,
        *,
        active: int = 0,
        completed: int = 0,
        audio_s: float = 0.0,
        total_time_s: float = 0.0,
    ) -> None:
        done = self._transcriptions
        self._transcriptions = replace(
            done,
            active=done.active + active,
            completed=done.completed + completed,
            audio_s=done.audio_s + audio_s,
            total_time_s=done.total_time_s + total_time_s,
        )
