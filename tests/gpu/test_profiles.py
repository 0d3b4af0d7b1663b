"""The shapes that engines take, against what Nereid sends."""

from __future__ import annotations

import random
from functools import cache
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from engines.errors import EngineError
from engines.profiles import Shapes, profile_of
from engines.repository import Model, engine_models
from functions._kit.capabilities import canvas_of
from functions._kit.pictures.letterbox import letterbox
from functions._kit.ports import ServedModel, TensorSpec
from functions.media.upscale.tiles import plan
from gateway.settings import CHECKOUT
from tests.gpu.conftest import CONFIG

REPOSITORY = CHECKOUT / "model_repository"
UPSCALERS = [
    model for model in engine_models(REPOSITORY, []) if "max_tile_pixels" in model.parameters
]
LARGEST_ELEMENTS = 2**31 - 1


planned = cache(plan)


def photo_sizes() -> list[tuple[int, int]]:
    """Well-known ones, extreme ones, and some by chance; height and width."""
    known = [(1080, 1920), (1920, 1080), (2160, 3840), (4000, 6000), (6000, 4000), (480, 640)]
    extreme = [(1, 1), (1, 60_000), (60_000, 1), (16_000, 25), (1023, 1025), (1280, 1281), (7, 900)]
    by_chance = random.Random(1)
    drawn = [(by_chance.randint(1, 7000), by_chance.randint(1, 7000)) for _ in range(40)]
    return known + extreme + drawn


@pytest.mark.parametrize("model", UPSCALERS, ids=lambda model: model.name)
def test_every_tile_that_is_cut_lies_in_the_profile(model: Model) -> None:
    (shapes,) = profile_of(model).values()
    parameters = {
        key: int(model.parameters[key])
        for key in ("halo", "max_tile_pixels", "max_tile_side", "streams")
    }
    parallel = parameters.pop("streams")
    for height, width in photo_sizes():
        tiles = planned(height, width, parallel=parallel, **parameters)
        for batch in range(1, model.config.max_batch_size + 1):
            shape = (batch, tiles.tile_height, tiles.tile_width, 3)
            assert shapes.holds(shape), f"{width} x {height} is cut into {shape}"


@pytest.mark.parametrize("model", UPSCALERS, ids=lambda model: model.name)
def test_a_1080p_photo_is_what_the_engine_is_fastest_with(model: Model) -> None:
    (shapes,) = profile_of(model).values()
    keys = ("halo", "max_tile_pixels", "max_tile_side")
    limits = {key: int(model.parameters[key]) for key in keys}
    tiles = plan(1080, 1920, parallel=int(model.parameters["streams"]), **limits)
    assert shapes.optimum[1:3] == (tiles.tile_height, tiles.tile_width)
    assert tiles.waste < 0.1


@pytest.mark.parametrize("model", UPSCALERS, ids=lambda model: model.name)
def test_the_bound_on_a_side_costs_memory_for_at_most_twice_the_pixels(model: Model) -> None:
    (shapes,) = profile_of(model).values()
    batch, height, width, _ = shapes.maximum
    assert height * width <= 2 * int(model.parameters["max_tile_pixels"])
    scale = int(model.parameters["scale"])
    assert batch * height * width * scale * scale * 3 <= LARGEST_ELEMENTS


@pytest.mark.parametrize(
    "size",
    [(1920, 1080), (1080, 1920), (640, 480), (416, 416), (417, 415), (2000, 40), (40, 2000)],
)
def test_every_frame_is_letterboxed_into_the_profile(size: tuple[int, int]) -> None:
    (model,) = engine_models(REPOSITORY, ["nanodet-g-416"])
    (shapes,) = profile_of(model).values()
    canvas = canvas_of(
        ServedModel(
            model.name,
            "1",
            model.parameters,
            {"image": TensorSpec("UINT8", tuple(model.config.input[0].dims))},
            {},
        )
    )
    frame = BytesIO()
    Image.new("RGB", size).save(frame, "PNG")
    pixels = letterbox(
        frame.getvalue(),
        width=canvas.width,
        height=canvas.height,
        multiple_of=canvas.multiple_of,
    ).pixels
    for batch in (1, 8, 32):
        assert shapes.holds((batch, *pixels.shape))


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('"max_tile_side" value { string_value: "64"', '"other" value { string_value: "64"',
         "`max_tile_side` of configs/tensorrt.pbtxt is ''"),
        ('string_value: "64"', 'string_value: "0"', "is '0' and must be a whole number"),
        ("[ -1, -1, 3 ] } ]\noutput", "[ -1, 4, 3 ] } ]\noutput", r"\[-1, 4, 3\]; only pictures"),
        ('key: "image"', 'key: "picture"', "first model_warmup must hold the input `image`"),
        ("[ 16, 24, 3 ]", "[ 16, 65, 3 ]", r"sends \[1, 16, 65, 3\] to `image`, outside of"),
        ("platform", "plat", "is no model configuration"),
    ],
)  # fmt: skip
def test_a_configuration_that_bounds_no_profile_is_refused(
    repository: Path, old: str, new: str, reason: str
) -> None:
    file = repository / "small" / "configs" / "tensorrt.pbtxt"
    assert old in CONFIG
    file.write_text(CONFIG.replace(old, new))
    with pytest.raises(EngineError, match=reason):
        profile_of(Model(repository / "small"))


def test_a_model_without_a_batch_and_with_fixed_dims_has_one_shape(repository: Path) -> None:
    file = repository / "small" / "configs" / "tensorrt.pbtxt"
    fixed = CONFIG.replace("max_batch_size: 2", "max_batch_size: 0")
    file.write_text(fixed.replace("[ -1, -1, 3 ] } ]\noutput", "[ 16, 24, 3 ] } ]\noutput"))
    shape = (16, 24, 3)
    assert profile_of(Model(repository / "small")) == {"image": Shapes(shape, shape, shape)}


@pytest.mark.parametrize(
    ("policy", "served"),
    [
        ("", ["10"]),
        ("version_policy { latest { num_versions: 2 } }", ["9", "10"]),
        ("version_policy { all {} }", ["1", "9", "10"]),
        ("version_policy { specific { versions: [ 1, 9 ] } }", ["1", "9"]),
    ],
)
def test_engines_are_for_the_versions_that_triton_loads(
    repository: Path, policy: str, served: list[str]
) -> None:
    for number in ("9", "10"):
        (repository / "small" / number).mkdir()
    (repository / "small" / "configs" / "tensorrt.pbtxt").write_text(CONFIG + policy)
    folders = Model(repository / "small").served_versions()
    assert [folder.name for folder in folders] == served
