"""Where a recording is cut."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from functions.audio._cutter import (
    LEAST_SPEECH,
    LONGEST,
    PADDING,
    PAUSE,
    SHORTEST_WHEN_CUT,
    SILENCE,
    SPEECH,
    Cutter,
    Span,
)

TALK, HUSH = 0.9, 0.05


def cut(probabilities: list[float], block: int = 10_000) -> list[Span]:
    cutter = Cutter()
    spans: list[Span] = []
    for at in range(0, len(probabilities), block):
        spans += cutter.feed(probabilities[at : at + block])
    return spans + list(cutter.finish())


def test_silence_has_no_spans() -> None:
    assert cut([]) == []
    assert cut([HUSH] * 10_000) == []


def test_speech_is_cut_out_with_a_little_silence_on_both_sides() -> None:
    (span,) = cut([HUSH] * 100 + [TALK] * 50 + [HUSH] * 100)
    assert (span.start, span.end) == (100 - PADDING, 150 + PADDING)
    assert span.speech == pytest.approx((50 * TALK + 2 * PADDING * HUSH) / (50 + 2 * PADDING))


def test_speech_at_the_very_edges_is_kept() -> None:
    (span,) = cut([TALK] * 50)
    assert (span.start, span.end) == (0, 50)


def test_a_breath_does_not_cut_and_a_pause_does() -> None:
    breath = [TALK] * 50 + [HUSH] * (PAUSE - 1) + [TALK] * 50
    assert len(cut(breath)) == 1
    pause = [TALK] * 50 + [HUSH] * PAUSE + [TALK] * 50
    first, second = cut(pause)
    assert first.end <= second.start


def test_speech_ends_below_the_lower_threshold_alone() -> None:
    between = (SPEECH + SILENCE) / 2
    assert len(cut([TALK] * 20 + [between] * 2 * PAUSE + [TALK] * 20)) == 1
    assert cut([between] * 100) == []


def test_a_click_is_no_speech() -> None:
    assert cut([HUSH] * 50 + [TALK] * (LEAST_SPEECH - 1) + [HUSH] * 50) == []
    assert len(cut([HUSH] * 50 + [TALK] * LEAST_SPEECH + [HUSH] * 50)) == 1


def test_what_is_too_long_is_cut_in_its_longest_pause() -> None:
    short, long = SHORTEST_WHEN_CUT + 20, SHORTEST_WHEN_CUT + 100
    probabilities = [TALK] * (2 * LONGEST - 10)
    probabilities[short : short + 4] = [HUSH] * 4
    probabilities[long : long + 10] = [HUSH] * 10
    first, second, *_ = cut(probabilities)
    assert first.end == second.start
    assert long < first.end < long + 10


def test_talk_without_any_pause_is_cut_where_it_is_least_likely() -> None:
    probabilities = [TALK] * (LONGEST + 100)
    probabilities[SHORTEST_WHEN_CUT + 77] = 0.6
    first, second = cut(probabilities)
    assert first.end == second.start == SHORTEST_WHEN_CUT + 77
    assert second.end == LONGEST + 100


@pytest.mark.parametrize("seed", range(20))
def test_spans_are_in_order_never_too_long_and_miss_no_speech(seed: int) -> None:
    chance = random.Random(seed)
    probabilities: list[float] = []
    while len(probabilities) < 5_000:
        level = chance.choice([TALK, TALK, HUSH])
        probabilities += [
            min(1.0, max(0.0, chance.gauss(level, 0.1)))
            for _ in range(chance.choice([2, 10, 60, 700]))
        ]
    spans = cut(probabilities)
    assert spans == cut(probabilities, block=chance.choice([1, 7, 960]))
    assert all(0 < span.end - span.start <= LONGEST for span in spans)
    assert all(before.end <= after.start for before, after in pairwise(spans))
    assert spans[-1].end <= len(probabilities)
    heard = {at for span in spans for at in range(span.start, span.end)}
    missed = [at for at, p in enumerate(probabilities) if p >= SPEECH and at not in heard]
    runs = sum(1 for at, before in zip(missed, [-9, *missed], strict=False) if at - before > PAUSE)
    assert len(missed) < LEAST_SPEECH * max(1, runs), "more than clicks was left out"
