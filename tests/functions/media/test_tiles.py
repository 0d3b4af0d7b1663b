from __future__ import annotations

import random

import numpy as np
import pytest

from functions._kit.errors import JobFailed
from functions.media.upscale.tiles import Box, TilePlan, plan

LENGTHS = (1, 2, 3, 7, 18, 19, 37, 38, 39, 97, 101, 211, 397, 1009)


def check(tiles: TilePlan, halo: int, max_tile_pixels: int) -> None:
    """All that a plan promises."""
    covered = np.zeros((tiles.height, tiles.width), np.uint8)
    for tile in tiles:
        source, kept = tile.source, tile.kept
        assert source.bottom - source.top == tiles.tile_height
        assert source.right - source.left == tiles.tile_width
        assert source.top >= 0
        assert source.bottom <= tiles.height
        assert source.left >= 0
        assert source.right <= tiles.width
        assert kept.top - source.top >= halo or source.top == kept.top == 0
        assert kept.left - source.left >= halo or source.left == kept.left == 0
        assert source.bottom - kept.bottom >= halo or source.bottom == kept.bottom == tiles.height
        assert source.right - kept.right >= halo or source.right == kept.right == tiles.width
        covered[kept.rows, kept.columns] += 1
    assert (covered == 1).all()
    assert tiles.tile_height * tiles.tile_width <= max_tile_pixels


@pytest.mark.parametrize("height", LENGTHS)
@pytest.mark.parametrize("width", LENGTHS)
@pytest.mark.parametrize("halo", [0, 1, 19])
def test_every_pixel_is_kept_once_and_a_halo_away_from_inner_edges(
    height: int, width: int, halo: int
) -> None:
    limit = (4 * halo + 10) ** 2
    check(plan(height, width, halo=halo, max_tile_pixels=limit), halo, limit)


def test_random_plans_hold_their_promises() -> None:
    generator = random.Random(1)
    for _ in range(500):
        height, width = generator.randint(1, 400), generator.randint(1, 400)
        halo, parallel = generator.randint(0, 24), generator.randint(1, 4)
        limit = generator.randint((2 * halo + 3) ** 2, 60_000)
        tiles = plan(height, width, halo=halo, max_tile_pixels=limit, parallel=parallel)
        check(tiles, halo, limit)


def test_a_photo_within_the_limit_is_one_tile() -> None:
    tiles = plan(300, 200, halo=19, max_tile_pixels=60_000)
    assert [(tile.source, tile.kept) for tile in tiles] == [
        (Box(0, 0, 300, 200), Box(0, 0, 300, 200))
    ]
    assert tiles.waste == 0


@pytest.mark.parametrize("size", [(4000, 6000), (65_500, 65_500), (1, 500_000), (500_000, 1)])
def test_large_photos_are_planned_within_the_limit(size: tuple[int, int]) -> None:
    tiles = plan(*size, halo=19, max_tile_pixels=400_000, parallel=2)
    assert tiles.tile_height * tiles.tile_width <= 400_000
    assert tiles.waste < 0.2


def test_no_side_of_a_tile_is_longer_than_it_may_be() -> None:
    generator = random.Random(2)
    for _ in range(500):
        height, width = generator.randint(1, 400), generator.randint(1, 400)
        halo = generator.randint(0, 24)
        side = generator.randint(2 * halo + 3, 200)
        limit = generator.randint((2 * halo + 3) ** 2, 60_000)
        tiles = plan(height, width, halo=halo, max_tile_pixels=limit, max_tile_side=side)
        check(tiles, halo, limit)
        assert max(tiles.tile_height, tiles.tile_width) <= side


def test_a_bound_that_a_photo_keeps_anyway_changes_nothing() -> None:
    free = plan(1080, 1920, halo=19, max_tile_pixels=600_000, parallel=2)
    bound = plan(1080, 1920, halo=19, max_tile_pixels=600_000, max_tile_side=1024, parallel=2)
    assert list(free) == list(bound)


def test_parallel_prefers_a_number_of_tiles_that_leaves_no_stream_idle() -> None:
    one_by_one = plan(100, 300, halo=1, max_tile_pixels=10_300)
    in_pairs = plan(100, 300, halo=1, max_tile_pixels=10_300, parallel=2)
    assert len(one_by_one) == 3
    assert len(in_pairs) == 4


def test_a_tile_that_would_be_all_halo_is_refused_with_the_way_out() -> None:
    with pytest.raises(JobFailed, match="max_tile_pixels") as caught:
        plan(1000, 1000, halo=20, max_tile_pixels=1600)
    assert caught.value.code == "tile_too_small"


def test_a_side_that_would_be_all_halo_is_refused_with_the_way_out() -> None:
    with pytest.raises(JobFailed, match="max_tile_side = 40 of the model is too small"):
        plan(1000, 1000, halo=20, max_tile_pixels=60_000, max_tile_side=40)
