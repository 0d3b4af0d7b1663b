"""Cuts a recording at its silences, so that its length is not limited by a model's.

Speech begins and ends by two thresholds, as Silero's own `VADIterator` does it; what is too long
for one segment is cut in the middle of its longest pause.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

WINDOW = 512
"""Samples that one probability of speech stands for: 32 ms at 16 kHz."""
SPEECH, SILENCE = 0.5, 0.35
"""Silero's defaults: speech begins at the one and ends below the other."""


def _windows(seconds: float) -> int:
    return round(seconds * 16_000 / WINDOW)


LONGEST = _windows(15.0)
SHORTEST_WHEN_CUT = _windows(5.0)
PAUSE = _windows(0.8)
"""So much silence ends a segment."""
LEAST_SPEECH = _windows(0.16)
"""Anything shorter is a click, no word."""
PADDING = _windows(0.2)
"""Kept before and after speech: soft consonants fall below the threshold."""


@dataclass(frozen=True, slots=True)
class Span:
    """Windows `start` to `end` (exclusive) of the recording, with speech in them."""

    start: int
    end: int
    speech: float
    """The mean probability of speech."""


class Cutter:
    """Takes probabilities of speech, window by window, and gives spans as soon as they end."""

    def __init__(self) -> None:
        self._position = 0
        self._start = 0
        self._probabilities: list[float] = []
        """Of the windows from `_start` on; while nobody speaks, the last few."""
        self._speaking = False
        self._quiet = 0

    @property
    def start(self) -> int:
        """No later span begins before this window."""
        return self._start

    def feed(self, probabilities: Iterable[float]) -> Iterator[Span]:
        """Spans that end within the next windows."""
        for probability in probabilities:
            self._position += 1
            self._probabilities.append(probability)
            if not self._speaking:
                self._wait(probability)
                continue
            self._quiet = self._quiet + 1 if probability < SILENCE else 0
            if self._quiet >= PAUSE:
                yield from self._end(len(self._probabilities) - self._quiet + PADDING)
                self._speaking = False
            elif len(self._probabilities) >= LONGEST:
                yield from self._end(longest_pause(self._probabilities))
                self._quiet = min(self._quiet, len(self._probabilities))

    def finish(self) -> Iterator[Span]:
        """The span that the recording's end cuts off."""
        if self._speaking:
            length = len(self._probabilities)
            yield from self._end(min(length, length - self._quiet + PADDING))
            self._speaking = False

    def _wait(self, probability: float) -> None:
        if probability >= SPEECH:
            self._speaking, self._quiet = True, 0
        elif (surplus := len(self._probabilities) - PADDING) > 0:
            self._start += surplus
            del self._probabilities[:surplus]

    def _end(self, length: int) -> Iterator[Span]:
        """Close the span after `length` windows; what follows begins the next one."""
        probabilities = self._probabilities[:length]
        if sum(p >= SPEECH for p in probabilities) >= LEAST_SPEECH:
            mean = sum(probabilities) / length
            yield Span(self._start, self._start + length, mean)
        self._start += length
        del self._probabilities[:length]


def longest_pause(probabilities: list[float]) -> int:
    """Where to cut what is too long: the middle of its longest pause, or its least likely window.

    Never in the first `SHORTEST_WHEN_CUT` windows: the model needs the context.
    """
    best, best_at, run = 0, 0, 0
    for at in range(SHORTEST_WHEN_CUT, len(probabilities)):
        run = run + 1 if probabilities[at] < SILENCE else 0
        if run >= best and run:
            best, best_at = run, at + 1 - run // 2
    if best:
        return best_at
    return min(range(SHORTEST_WHEN_CUT, len(probabilities)), key=probabilities.__getitem__)
