"""One suite over the fake and over a real Triton: what `Inference` promises."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest
import pytest_asyncio

from functions._kit.errors import JobFailed, NotFound, Unavailable
from functions._kit.fakes.inference import FakeInference
from functions._kit.ports import Inference
from gateway.adapters.inference import TritonInference

MODEL = "realesr-animevideov3-x2"
# The network shifts an even grey of 200 by up to 7 of 255 levels, in ONNX Runtime as in OpenVINO.
EVEN_GREY_SHIFT = 8


@pytest.fixture(params=["fake", "triton"])
def address(request: pytest.FixtureRequest) -> str | None:
    """Where the real server is; None for the fake. Not async: it may start the server."""
    return str(request.getfixturevalue("triton_url")) if request.param == "triton" else None


@pytest_asyncio.fixture
async def inference(address: str | None) -> AsyncIterator[Inference]:
    if address is None:
        yield FakeInference()
        return
    async with TritonInference(address) as real:
        yield real


async def test_a_model_is_loaded_when_asked_for_and_says_its_parameters(
    inference: Inference,
) -> None:
    model = await inference.model(MODEL)
    assert (model.name, model.version) == (MODEL, "1")
    assert {"scale": "2", "bits": "8", "halo": "19"}.items() <= model.parameters.items()
    assert int(model.parameters["max_tile_pixels"]) > 0


async def test_an_unknown_model_is_not_found(inference: Inference) -> None:
    for name in ("nope", "", "../nope", "a" * 10_000):
        with pytest.raises(NotFound) as caught:
            await inference.model(name)
        assert caught.value.code == "model_not_found"


async def test_names_hold_every_model_of_the_repository(inference: Inference) -> None:
    assert {MODEL, f"{MODEL}-16bit", "realesrgan-x4plus"} <= await inference.model_names()


async def test_a_picture_comes_back_enlarged(inference: Inference) -> None:
    image = np.full((1, 24, 40, 3), 200, np.uint8)
    answer = await inference.infer(await inference.model(MODEL), {"image": image}, priority=1)
    assert set(answer) == {"upscaled"}
    assert answer["upscaled"].shape == (1, 48, 80, 3)
    assert answer["upscaled"].dtype == np.uint8
    assert abs(answer["upscaled"].astype(int) - 200).max() <= EVEN_GREY_SHIFT


async def test_sixteen_bits_stay_sixteen_bits(inference: Inference) -> None:
    image = np.full((1, 24, 40, 3), 40_001, np.float32)
    model = await inference.model(f"{MODEL}-16bit")
    upscaled = (await inference.infer(model, {"image": image}))["upscaled"]
    assert upscaled.dtype == np.float32
    assert (upscaled == np.round(upscaled)).all()
    assert (upscaled % 257 != 0).any(), "only 256 levels are left"
    assert abs(upscaled - 40_001).max() <= EVEN_GREY_SHIFT * 257


async def test_requests_of_many_sizes_at_once_get_their_own_answers(inference: Inference) -> None:
    model = await inference.model(MODEL)

    async def ask(size: int) -> None:
        image = np.full((1, size, 20, 3), size, np.uint8)
        answer = await inference.infer(model, {"image": image}, priority=1 + size % 3)
        assert answer["upscaled"].shape == (1, 2 * size, 40, 3)
        assert abs(answer["upscaled"][0, size, 20].astype(int) - size).max() <= EVEN_GREY_SHIFT

    await asyncio.gather(*(ask(size) for size in range(40, 120, 4)))


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((1, 20, 20, 4), np.uint8),
        np.zeros((20, 20, 3), np.uint8),
        np.zeros((1, 20, 20, 3), np.float32),
        np.zeros((1, 2000, 2000, 3), np.uint8),
    ],
    ids=["four channels", "no batch", "another type", "above max_tile_pixels"],
)
async def test_a_wrong_image_is_refused_for_good(
    inference: Inference, image: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
) -> None:
    model = await inference.model(MODEL)
    with pytest.raises(JobFailed) as caught:
        await inference.infer(model, {"image": image})
    assert caught.value.code == "inference_refused"


async def test_a_wrong_input_name_is_refused_for_good(inference: Inference) -> None:
    model = await inference.model(MODEL)
    with pytest.raises(JobFailed) as caught:
        await inference.infer(model, {"picture": np.zeros((1, 8, 8, 3), np.uint8)})
    assert caught.value.code == "inference_refused"


async def test_a_server_that_runs_is_healthy(inference: Inference) -> None:
    assert await inference.healthy()


async def test_a_sick_fake_is_unavailable() -> None:
    inference = FakeInference()
    model = await inference.model(MODEL)
    inference.sick = True
    assert not await inference.healthy()
    with pytest.raises(Unavailable):
        await inference.infer(model, {"image": np.zeros((1, 8, 8, 3), np.uint8)})


async def test_an_absent_server_is_unavailable() -> None:
    async with TritonInference("127.0.0.1:1") as inference:
        assert not await inference.healthy()
        with pytest.raises(Unavailable) as caught:
            await inference.model(MODEL)
    assert caught.value.code == "triton_unavailable"


async def test_a_request_past_its_deadline_is_unavailable(triton_url: str) -> None:
    async with TritonInference(triton_url, infer_timeout_s=0.001) as inference:
        model = await inference.model(MODEL)
        with pytest.raises(Unavailable):
            await inference.infer(model, {"image": np.zeros((1, 256, 256, 3), np.uint8)})


async def test_a_model_unloaded_meanwhile_is_loaded_again(triton_url: str) -> None:
    async with TritonInference(triton_url) as inference:
        model = await inference.model(MODEL)
        await inference._client.unload_model(MODEL)
        await _until_unloaded(inference)
        image = np.zeros((1, 16, 16, 3), np.uint8)
        assert (await inference.infer(model, {"image": image}))["upscaled"].shape[1] == 32


async def _until_unloaded(inference: TritonInference) -> None:
    async with asyncio.timeout(60):
        while await inference._client.is_model_ready(MODEL):
            await asyncio.sleep(0.01)
