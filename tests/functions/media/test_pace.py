"""Progress within a tile: what the last picture taught, and never more than is true."""

from __future__ import annotations

import pytest

from functions.media.upscale import pace
from functions.media.upscale.tiles import plan

TILES = plan(200, 200, halo=10, max_tile_pixels=15_000, parallel=2)


class Clock:
    """Stands where it is put."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(pace, "time", clock)
    monkeypatch.setattr(pace, "_seconds_per_pixel", {})
    return clock


def made() -> pace.Pace:
    return pace.Pace("model", TILES, 2, lambda _: None)


def test_without_experience_only_finished_tiles_count(clock: Clock) -> None:
    first = made()
    clock.now = 100.0
    assert first.expected() == 0.0


def test_the_second_picture_moves_from_its_first_second(clock: Clock) -> None:
    first = made()
    for clock.now in (1.0, 2.0, 3.0, 4.0):
        first.tile_done()
    assert len(TILES) == 4
    second = made()
    clock.now += 1.0
    assert second.expected() == pytest.approx(0.25)


def test_a_slow_tile_is_never_told_as_done(clock: Clock) -> None:
    first = made()
    for clock.now in (1.0, 2.0, 3.0, 4.0):
        first.tile_done()
    second = made()
    clock.now += 1_000.0
    assert second.expected() == pytest.approx(2 * pace.NEARLY / 4)
    second.tile_done()
    assert second.expected() == pytest.approx(0.25)  # and the lesson is learnt: a slow machine


def test_what_is_done_is_told_however_early(clock: Clock) -> None:
    first = made()
    for clock.now in (100.0, 200.0):
        first.tile_done()
    clock.now = 200.0
    second = made()
    second.tile_done()
    assert second.expected() >= 0.25
