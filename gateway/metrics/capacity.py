"""Limits that adapt to the machine or the operator, and how much of them is taken."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from functions._kit.ports import AudioConverter, Figures, LanguageModel
from gateway.metrics import catalogue


class Capacity(Collector):
    """The converter's and the language model's limits in this process, and its memory."""

    def __init__(
        self, converter: AudioConverter, language_model: LanguageModel, figures: Figures
    ) -> None:
        self._converter = converter
        self._language_model = language_model
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        """Read what lies in memory; nothing is asked over a network."""
        sound = self._converter.figures()
        yield catalogue.CONVERSIONS_LIMIT.read([((), sound.max_concurrent)])
        yield catalogue.CONVERSIONS_ACTIVE.read([((), sound.active)])
        yield catalogue.CONVERSIONS_WAITING.read([((), sound.waiting)])
        yield catalogue.CONVERSIONS.read(
            [(("completed",), sound.completed), (("failed",), sound.failed)]
        )
        yield catalogue.CONVERSION_SECONDS.read([((), sound.total_time_s)])
        turns = self._language_model.turns()
        yield catalogue.LANGUAGE_LIMIT.read([((), turns.at_once)])
        yield catalogue.LANGUAGE_ACTIVE.read([((), turns.active)])
        yield catalogue.LANGUAGE_WAITING.read([((), turns.waiting)])
        yield catalogue.MEMORY.read([((), self._figures.all()[0].usage.memory_bytes)])
