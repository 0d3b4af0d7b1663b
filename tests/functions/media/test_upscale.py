"""`media.upscale` over a model that repeats pixels: each must land exactly where it should."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import pyvips
from numpy.typing import NDArray

from functions._kit.errors import JobFailed, NereidError, NotFound, Unavailable
from functions._kit.fakes import FakeInference, FakeKeyValue, FakeObjects, FakePictureDecoder
from functions._kit.fakes.inference import DEFAULT_MODELS
from functions._kit.messages import new_id, now
from functions._kit.ports import Limits, ServedModel
from functions.media.contracts import THUMBNAIL, UPSCALE, MediaJob, MediaResult
from functions.media.upscale import ENCODED, upscale
from functions.tasks.contracts import Task

if TYPE_CHECKING:
    from tests.functions.conftest import FakeRun

Enlarge = Callable[..., Awaitable[tuple[MediaResult, NDArray[Any]]]]
X2, X3, X4 = (f"realesr-animevideov3-x{scale}" for scale in (2, 3, 4))
PLUS = "realesrgan-x4plus"
LIMITS = Limits(
    max_upload_bytes=10_000_000,
    max_pixels=1_000_000,
    allow_private_callbacks=False,
    webhook_secret=b"",
)


def small_tiles(pixels: int) -> dict[str, dict[str, str]]:
    """The published models with a halo of 4 and tiles of so many pixels."""
    few = {"halo": "4", "max_tile_pixels": str(pixels)}
    return {name: facts | few for name, facts in DEFAULT_MODELS.items()}


def noise(height: int, width: int, bands: int = 3, kind: type = np.uint8) -> NDArray[Any]:
    random = np.random.default_rng(height * 1000 + width)
    return random.integers(0, np.iinfo(kind).max + 1, (height, width, bands)).astype(kind)


def slope(height: int, width: int) -> NDArray[Any]:
    """Brighter to the right by 3 a pixel, downwards by 2."""
    rows, columns = np.mgrid[0:height, 0:width]
    return np.repeat((20 + 2 * rows + 3 * columns)[..., None], 3, axis=2).astype(np.uint8)


def file_of(pixels: NDArray[Any], suffix: str = ".png", **options: Any) -> bytes:
    """The pixels in a file; with one band grey, with two or four transparent."""
    grey, wide = pixels.shape[2] < 3, pixels.dtype == np.uint16
    kind = {(True, True): "grey16", (True, False): "b-w", (False, True): "rgb16"}
    image = pyvips.Image.new_from_array(np.ascontiguousarray(pixels))
    image = image.copy(interpretation=kind.get((grey, wide), "srgb"))
    return bytes(image.write_to_buffer(suffix, **options))


def pixels_of(content: bytes) -> NDArray[Any]:
    array: NDArray[Any] = pyvips.Image.new_from_buffer(content, "").numpy()
    return array if array.ndim == 3 else array[..., None]


def repeated(pixels: NDArray[Any], scale: int) -> NDArray[Any]:
    return pixels.repeat(scale, axis=0).repeat(scale, axis=1)


def job(**facts: Any) -> MediaJob:
    task = Task(
        task_id=facts.pop("task_id", new_id()),
        client_id="alice",
        workflow="nas-photo-processing",
        priority=5,
        created_at=now(),
    )
    given: dict[str, Any] = {
        "file_path": "photos/cat.jpg", "scale_factor": 2, "denoise_strength": 0.0,
        "format": None, "quality": 90, "keep_metadata": True, "lossless": False,
    }  # fmt: skip
    given["capability"] = f"upscale.{facts.pop('model', X2)}"
    return MediaJob(task=task, steps=(UPSCALE, THUMBNAIL), **{**given, **facts})


@pytest.fixture
def objects() -> FakeObjects:
    return FakeObjects()


@pytest.fixture
def enlarge(objects: FakeObjects, run: FakeRun) -> Enlarge:
    """Runs the function on a file; gives its answer and the pixels of its result."""

    async def work(
        content: bytes,
        *,
        models: Mapping[str, dict[str, str]] | None = None,
        inference: FakeInference | None = None,
        **facts: Any,
    ) -> tuple[MediaResult, NDArray[Any]]:
        put(objects, content)
        served = inference or FakeInference(models)
        answer = await upscale.handler(
            job(**facts), run, objects, FakePictureDecoder(), served, FakeKeyValue(), LIMITS
        )
        assert isinstance(answer, MediaResult)
        stored = objects.contents[answer.file_path]
        assert answer.size == len(stored)
        pixels = pixels_of(stored)
        assert (answer.height, answer.width) == pixels.shape[:2]
        return answer, pixels

    return work


def put(objects: FakeObjects, content: bytes) -> None:
    objects.contents["photos/cat.jpg"] = content
    objects._types["photos/cat.jpg"] = "whatever"


@pytest.mark.parametrize(("model", "scale"), [(X2, 2), (X3, 3), (X4, 4), (PLUS, 4)])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 40), (33, 2), (48, 64), (97, 131)])
async def test_every_pixel_lands_where_it_should(
    enlarge: Enlarge, model: str, scale: int, height: int, width: int
) -> None:
    photo = noise(height, width)
    answer, pixels = await enlarge(
        file_of(photo), models=small_tiles(1500), model=model, scale_factor=scale
    )
    np.testing.assert_array_equal(pixels, repeated(photo, scale))
    assert (answer.model, answer.model_version) == (model, "1")


async def test_many_tiles_and_one_give_the_same(enlarge: Enlarge, objects: FakeObjects) -> None:
    content = file_of(noise(90, 120))
    task_id = new_id()
    one, many = FakeInference(), FakeInference(small_tiles(1000))
    await enlarge(content, inference=one, task_id=task_id)
    whole = dict(objects.contents)
    await enlarge(content, inference=many, task_id=task_id)
    assert one.requests <= 2
    assert many.requests > 10
    assert objects.contents == whole, "a second run overwrites the first one's result"


@pytest.mark.parametrize(
    ("model", "scale"), [(X2, 1), (X3, 1), (X3, 2), (PLUS, 1), (PLUS, 2), (PLUS, 3)]
)
@pytest.mark.parametrize(("height", "width"), [(31, 40), (40, 31)])
async def test_a_smaller_scale_is_a_reduction_that_shifts_nothing(
    enlarge: Enlarge, model: str, scale: int, height: int, width: int
) -> None:
    _, pixels = await enlarge(
        file_of(slope(height, width)), models=small_tiles(600), model=model, scale_factor=scale
    )
    assert pixels.shape == (height * scale, width * scale, 3)
    rows, columns = ((np.arange(n * scale) + 0.5) / scale - 0.5 for n in (height, width))
    expected = 20 + 2 * rows[:, None] + 3 * columns[None, :]
    error = (pixels[..., 0] - expected)[4 * scale : -4 * scale, 4 * scale : -4 * scale]
    # one pixel further would be 3 / scale off
    assert abs(error.mean()) < 0.3 / scale
    assert abs(error).max() < 3


@pytest.mark.parametrize("bands", [2, 4], ids=["grey", "colour"])
async def test_transparency_is_enlarged_too(enlarge: Enlarge, bands: int) -> None:
    photo = noise(30, 50, bands)
    _, pixels = await enlarge(file_of(photo), models=small_tiles(700))
    np.testing.assert_array_equal(pixels, repeated(photo, 2))


async def test_grey_stays_grey(enlarge: Enlarge) -> None:
    photo = noise(30, 50, 1)
    _, pixels = await enlarge(file_of(photo), models=small_tiles(700))
    np.testing.assert_array_equal(pixels, repeated(photo, 2))


@pytest.mark.parametrize("bands", [1, 3, 4])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
async def test_sixteen_bits_stay_sixteen(enlarge: Enlarge, bands: int, suffix: str) -> None:
    photo = noise(30, 50, bands, np.uint16)
    _, pixels = await enlarge(file_of(photo, suffix), models=small_tiles(700))
    assert pixels.dtype == np.uint16
    np.testing.assert_array_equal(pixels, repeated(photo, 2))


async def test_sixteen_bits_become_eight_where_the_model_has_no_more(enlarge: Enlarge) -> None:
    photo = noise(20, 20, 3, np.uint16)
    answer, pixels = await enlarge(
        file_of(photo), models={"mine": DEFAULT_MODELS[X2]}, model="mine"
    )
    assert answer.model == "mine"
    assert pixels.dtype == np.uint8
    eight = np.rint(photo / 257).astype(np.uint8)
    np.testing.assert_array_equal(pixels, repeated(eight, 2))


async def test_sixteen_bits_become_eight_where_the_file_has_no_more(enlarge: Enlarge) -> None:
    photo = (slope(20, 20) * 257.0).astype(np.uint16)
    answer, pixels = await enlarge(file_of(photo), format="jpeg", quality=100)
    assert answer.content_type == "image/jpeg"
    assert pixels.dtype == np.uint8
    assert abs(pixels.astype(int) - repeated(slope(20, 20), 2)).max() < 8


@pytest.mark.parametrize(
    ("suffix", "content_type"),
    [
        (".jpg", "image/jpeg"),
        (".png", "image/png"),
        (".webp", "image/webp"),
        (".tif", "image/tiff"),
    ],
)
async def test_a_photo_stays_what_it_is(enlarge: Enlarge, suffix: str, content_type: str) -> None:
    answer, pixels = await enlarge(file_of(slope(40, 50), suffix))
    assert answer.content_type == content_type
    assert answer.file_path.endswith(f"/cat_x2{suffix}")
    assert abs(pixels.astype(int) - repeated(slope(40, 50), 2)).mean() < 2


@pytest.mark.parametrize("wish", ["jpeg", "png", "webp", "avif"])
async def test_a_photo_becomes_what_is_wished(enlarge: Enlarge, wish: str) -> None:
    answer, pixels = await enlarge(file_of(slope(40, 50), ".tif"), format=wish)
    assert answer.content_type == f"image/{wish}"
    assert abs(pixels.astype(int) - repeated(slope(40, 50), 2)).mean() < 3


async def test_quality_is_heeded(enlarge: Enlarge) -> None:
    sizes = [
        (await enlarge(file_of(noise(60, 60)), format="jpeg", quality=quality))[0].size
        for quality in (10, 60, 95)
    ]
    assert sizes == sorted(sizes)
    assert 2 * sizes[0] < sizes[2]


async def test_the_professional_workflow_adds_no_loss(enlarge: Enlarge) -> None:
    content = file_of(noise(40, 30), ".jpg", Q=80)
    answer, pixels = await enlarge(content, model=PLUS, scale_factor=4, lossless=True)
    assert answer.content_type == "image/png"
    np.testing.assert_array_equal(pixels, repeated(pixels_of(content), 4))
    content = file_of(noise(40, 30), ".webp", Q=80)
    answer, pixels = await enlarge(content, model=PLUS, scale_factor=4, lossless=True)
    assert answer.content_type == "image/webp"
    np.testing.assert_array_equal(pixels, repeated(pixels_of(content), 4))


async def test_a_turned_photo_stands_upright(enlarge: Enlarge) -> None:
    photo = noise(20, 30)
    image = pyvips.Image.new_from_array(photo).copy(interpretation="srgb")
    image.set_type(pyvips.GValue.gint_type, "orientation", 6)
    _, pixels = await enlarge(bytes(image.write_to_buffer(".tif")))
    np.testing.assert_array_equal(pixels, repeated(np.rot90(photo, -1), 2))


async def test_denoising_is_off_at_0_and_on_above(enlarge: Enlarge) -> None:
    flat = np.clip(128 + np.random.default_rng(1).normal(0, 12, (64, 64, 3)), 0, 255)
    content = file_of(flat.astype(np.uint8))
    _, off = await enlarge(content)
    _, on = await enlarge(content, denoise_strength=1.0)
    assert off.std() == pytest.approx(flat.std(), rel=0.02)
    assert on.std() < 0.5 * off.std()


async def test_progress_only_grows_and_tells_every_tile(enlarge: Enlarge, run: FakeRun) -> None:
    inference = FakeInference(small_tiles(700))
    await enlarge(file_of(noise(80, 80, 4)), inference=inference)
    assert run.told == sorted(run.told)
    assert 0 < run.told[0] < run.told[-1] == ENCODED
    assert len(set(run.told)) >= inference.requests


async def test_the_result_lies_under_its_task(enlarge: Enlarge) -> None:
    task_id = new_id()
    answer, _ = await enlarge(file_of(noise(4, 4)), task_id=task_id, model=X3, scale_factor=3)
    assert answer.file_path == f"results/{task_id}/cat_x3.png"


async def _refused(
    error: type[NereidError], code: str, working: Awaitable[object], objects: FakeObjects
) -> None:
    with pytest.raises(error) as caught:
        await working
    assert caught.value.code == code
    assert set(objects.contents) <= {"photos/cat.jpg"}, "something was stored"


async def test_an_unknown_model_is_not_found(enlarge: Enlarge, objects: FakeObjects) -> None:
    working = enlarge(file_of(noise(4, 4)), model="nope")
    await _refused(NotFound, "model_not_found", working, objects)


async def test_a_scale_beyond_the_model_fails_for_good(
    enlarge: Enlarge, objects: FakeObjects
) -> None:
    working = enlarge(file_of(noise(4, 4)), scale_factor=4)
    await _refused(JobFailed, "scale_not_supported", working, objects)


async def test_an_absent_file_fails_for_good(objects: FakeObjects, run: FakeRun) -> None:
    working = upscale.handler(
        job(), run, objects, FakePictureDecoder(), FakeInference(), FakeKeyValue(), LIMITS
    )
    await _refused(NotFound, "file_not_found", working, objects)


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "unsupported_media_type"),
        (b"text", "unsupported_media_type"),
        (file_of(noise(64, 64), ".jpg")[:900], "corrupt_picture"),
        (file_of(noise(64, 64))[:5000], "corrupt_picture"),
        (file_of(np.zeros((1001, 1000, 3), np.uint8)), "picture_too_large"),
        (bytes(10_000_001), "file_too_large"),
    ],
    ids=["empty", "text", "cut jpeg", "cut png", "many pixels", "many bytes"],
)
async def test_what_is_no_good_photo_fails_for_good(
    enlarge: Enlarge, objects: FakeObjects, content: bytes, code: str
) -> None:
    await _refused(NereidError, code, enlarge(content), objects)


async def test_a_result_too_large_for_its_format_fails_before_the_work(
    enlarge: Enlarge, objects: FakeObjects
) -> None:
    inference = FakeInference()
    working = enlarge(file_of(noise(1, 8200)), format="webp", inference=inference)
    await _refused(NereidError, "picture_too_large_for_format", working, objects)
    assert inference.requests == 0


async def test_a_model_that_breaks_its_promise_fails_the_job(
    enlarge: Enlarge, objects: FakeObjects
) -> None:
    class Wrong(FakeInference):
        async def infer(
            self, model: ServedModel, inputs: dict[str, NDArray[Any]], *, priority: int = 2
        ) -> dict[str, NDArray[Any]]:
            answer = await super().infer(model, inputs, priority=priority)
            return {"upscaled": answer["upscaled"][:, 1:]}

    working = enlarge(file_of(noise(8, 8)), inference=Wrong())
    await _refused(JobFailed, "model_contract_broken", working, objects)


async def test_triton_falling_sick_amid_the_tiles_is_not_the_jobs_fault(
    enlarge: Enlarge, objects: FakeObjects
) -> None:
    class Weak(FakeInference):
        async def infer(
            self, model: ServedModel, inputs: dict[str, NDArray[Any]], *, priority: int = 2
        ) -> dict[str, NDArray[Any]]:
            self.sick = self.requests >= 5
            return await super().infer(model, inputs, priority=priority)

    weak = Weak(small_tiles(700))
    working = enlarge(file_of(noise(80, 80)), inference=weak)
    await _refused(Unavailable, "triton_unavailable", working, objects)
    assert weak.requests == 5, "the other tiles went on"


async def test_a_sick_bucket_is_not_the_jobs_fault(objects: FakeObjects, run: FakeRun) -> None:
    put(objects, file_of(noise(4, 4)))
    objects.sick = True
    working = upscale.handler(
        job(), run, objects, FakePictureDecoder(), FakeInference(), FakeKeyValue(), LIMITS
    )
    await _refused(Unavailable, "s3_unavailable", working, objects)
