"""What long runs are judged by."""

from __future__ import annotations

import math
import random

import pytest
from mixed.figures import Limit, by_minute, limits_table, slope_percent, spread_ms, table


def test_a_steady_growth_is_found_in_percent_of_the_median() -> None:
    growing = [(at, 100 + at / 60) for at in range(0, 1200, 5)]
    assert slope_percent(growing) == pytest.approx(100 / 109.96, rel=1e-3)
    assert slope_percent([(at, 100 - at / 60) for at in range(0, 600, 5)]) < 0
    assert slope_percent([(at, 42.0) for at in range(10)]) == 0


def test_saw_teeth_and_what_is_far_off_hardly_move_a_slope() -> None:
    draw = random.Random(1)
    teeth = [(at * 5.0, 100 + (at % 12) + draw.random()) for at in range(144)]
    assert abs(slope_percent(teeth)) < 0.2
    teeth[70] = (350.0, 500.0)
    teeth[143] = (715.0, 0.0)
    assert abs(slope_percent(teeth)) < 0.2


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_samples_have_no_slope_and_keep_no_limit(count: int) -> None:
    slope = slope_percent([(float(at), 1.0) for at in range(count)])
    assert math.isnan(slope)
    assert not Limit(what="memory", measured=slope, most=1, unit="%").met


def test_samples_at_one_moment_are_no_slope_of_their_own() -> None:
    assert slope_percent([(0, 10), (0, 20), (60, 10), (60, 20)]) == 0


def test_each_minute_has_its_spread_and_what_is_left_over_belongs_to_the_last() -> None:
    timed = [(at / 10, 0.01 if at < 600 else 0.02) for at in range(1250)]
    first, second = by_minute(reversed(timed))
    assert (first["minute"], first["count"], first["p99_ms"]) == (0, 600, 10)
    assert (second["minute"], second["count"], second["most_ms"]) == (1, 650, 20)
    assert by_minute([]) == []
    assert [minute["count"] for minute in by_minute([(3.0, 0.1)])] == [1]


def test_a_spread_is_in_milliseconds_and_of_what_was_measured() -> None:
    assert spread_ms(n / 1000 for n in range(1, 101)) == {
        "count": 100, "p50_ms": 50, "p95_ms": 95, "p99_ms": 99, "most_ms": 100,
    }  # fmt: skip
    assert spread_ms([]) == {"count": 0}


@pytest.mark.parametrize(
    ("measured", "strictly", "met"),
    [(49.9, True, True), (50.0, True, False), (50.0, False, True), (50.1, False, False)],
)
def test_a_limit_is_met_or_missed(measured: float, met: bool, strictly: bool) -> None:  # noqa: FBT001
    limit = Limit(what="p99", measured=measured, most=50, unit="ms", strictly=strictly)
    assert limit.met is met
    assert limit.facts()["met"] is met
    assert limit.facts()["limit"] == ("< 50 ms" if strictly else "<= 50 ms")
    assert limits_table([limit]).endswith("met" if met else "MISSED")


def test_a_table_has_its_numbers_to_the_right() -> None:
    assert table(("part", "mb"), [("nats", 7.5), ("gateway", 100)]).splitlines() == [
        "part       mb",
        "nats     7.50",
        "gateway   100",
    ]
