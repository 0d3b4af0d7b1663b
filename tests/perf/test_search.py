"""The search on a made surface, whose best setting is known."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

import pytest
from msgspec.structs import replace
from tritonclient.grpc.model_config_pb2 import ModelConfig
from tuning.search import CALIBRATIONS, Search
from tuning.setting import Setting, stages

from tests.perf.surface import CORES, Surface, config

START = Setting(instances=1, streams=1, max_batch=1, delay_us=5000)
EVERY = [
    Setting(instances=instances, streams=streams, max_batch=batch, delay_us=delay)
    for instances, streams, batch, delay in itertools.product(
        (1, 2), (1, 2, 4), (1, 2, 4, 8), (0, 200, 1000, 5000)
    )
]


def search_on(surface: Surface, time_left: Callable[[], bool] = lambda: True) -> Search:
    return Search(surface.measure, time_left, lambda _: None)


def reached(surface: Surface, found: Setting) -> float:
    """The true rate of what was found, against the best of every setting's."""
    return surface.true(found) / max(surface.true(setting) for setting in EVERY)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("noise", [0.0, 0.02, 0.04])
async def test_at_least_95_percent_of_the_best_is_found(seed: int, noise: float) -> None:
    surface = Surface(random.Random(seed), noise=noise)
    found = await search_on(surface).best(START, stages(config(), CORES))
    assert reached(surface, found) >= 0.95


@pytest.mark.parametrize("seed", range(10))
async def test_a_machine_that_slows_down_meanwhile_does_not_mislead(seed: int) -> None:
    surface = Surface(random.Random(seed), noise=0.02, drift=0.004)
    found = await search_on(surface).best(START, stages(config(), CORES))
    assert reached(surface, found) >= 0.95


async def test_fewer_measurements_than_every_setting_once() -> None:
    surface = Surface(random.Random(1), noise=0.005)
    await search_on(surface).best(START, stages(config(), CORES))
    assert surface.measured < len(EVERY)


async def test_what_is_as_good_as_any_stays() -> None:
    flat = Surface(random.Random(2), noise=0.01, flat=True)
    assert await search_on(flat).best(START, stages(config(), CORES)) == START


async def test_when_the_time_is_over_the_best_so_far_is_taken() -> None:
    surface = Surface(random.Random(3))
    search = search_on(surface, lambda: surface.measured < 20)
    found = await search.best(START, stages(config(), CORES))
    assert surface.measured == 20
    assert surface.true(found) > surface.true(START)


async def test_without_any_time_nothing_changes() -> None:
    search = search_on(Surface(random.Random(4)), lambda: False)
    assert await search.best(START, stages(config(), CORES)) == START


async def test_a_setting_beyond_the_latency_limit_is_never_taken() -> None:
    async def measure(setting: Setting) -> float:
        return 0.0 if setting.streams != 2 else 10.0

    start = replace(START, streams=2)
    search = Search(measure, lambda: True, lambda _: None)
    assert (await search.best(start, stages(config(), CORES))).streams == 2


async def test_the_more_noise_the_more_stays_in_the_race() -> None:
    quiet, loud = Surface(random.Random(6), noise=0.0), Surface(random.Random(6), noise=0.05)
    for surface in (quiet, loud):
        await search_on(surface).best(START, stages(config(), CORES))
    assert loud.measured > quiet.measured


async def test_every_race_is_kept_as_evidence() -> None:
    surface = Surface(random.Random(5))
    search = search_on(surface)
    found = await search.best(START, stages(config(), CORES))
    rates = [rates for race in search.trial.races for _, rates in race.rates]
    assert sum(len(one) for one in rates) == surface.measured - CALIBRATIONS
    assert search.trial.races[-1].winner == found


def test_what_a_model_does_not_have_is_not_tried() -> None:
    whole = stages(config(), CORES)
    assert {"instances": 1, "streams": 2} in whole[0]
    assert len(whole) == 3
    plain = ModelConfig(name="m", backend="openvino", max_batch_size=0)
    assert len(stages(plain, CORES)) == 1
    on_gpu = ModelConfig(name="m", platform="tensorrt_plan", max_batch_size=8)
    assert all("streams" not in change for change in stages(on_gpu, CORES)[0])
