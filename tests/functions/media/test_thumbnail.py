from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import pyvips

from functions._kit.errors import NotFound, Unavailable
from functions._kit.fakes import FakeObjects, FakePictureDecoder
from functions._kit.messages import new_id, now
from functions.media.contracts import THUMBNAIL, MediaJob, Thumbnail
from functions.media.thumbnail import thumbnail
from functions.tasks.contracts import Task

if TYPE_CHECKING:
    from tests.functions.conftest import FakeRun

TASK = Task(
    task_id=new_id(),
    client_id="alice",
    workflow="nas-photo-processing",
    priority=5,
    created_at=now(),
)


def job(width: int, height: int) -> MediaJob:
    """A job whose photo has been enlarged to this size."""
    return MediaJob(
        task=TASK,
        steps=(THUMBNAIL,),
        done=0.97,
        result={"file_path": "results/large", "width": width, "height": height},
        file_path="photos/cat.jpg",
        capability="upscale.realesr-animevideov3-x2",
        scale_factor=2,
        denoise_strength=0.0,
        format=None,
        quality=90,
        keep_metadata=True,
        lossless=False,
    )


def store(width: int, height: int, suffix: str = ".png") -> FakeObjects:
    """A bucket with a result: its left half red, its right half blue."""
    red = pyvips.Image.black(width // 2, height, bands=3).linear(1, [200, 0, 0])
    blue = pyvips.Image.black(width - width // 2, height, bands=3).linear(1, [0, 0, 200])
    image = red.join(blue, "horizontal").cast("uchar").copy(interpretation="srgb")
    objects = FakeObjects()
    objects.contents["results/large"] = bytes(image.write_to_buffer(suffix))
    objects._types["results/large"] = "image/png"
    return objects


async def made(objects: FakeObjects, run: FakeRun, width: int, height: int) -> list[Thumbnail]:
    answer: dict[str, Any] = await thumbnail.handler(
        job(width, height), run, objects, FakePictureDecoder()
    )
    assert list(answer) == ["thumbnails"]
    thumbnails: list[Thumbnail] = answer["thumbnails"]
    return thumbnails


@pytest.mark.parametrize(
    ("width", "height", "sizes"),
    [
        (2000, 1000, [(320, 160), (1280, 640)]),
        (1000, 2000, [(160, 320), (640, 1280)]),
        (1280, 640, [(320, 160)]),
        (321, 321, [(320, 320)]),
        (320, 100, [(320, 100)]),
        (64, 64, [(64, 64)]),
        (2000, 2, [(320, 1), (1280, 1)]),
    ],
)
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
async def test_a_result_gets_the_smaller_copies_that_it_can(
    run: FakeRun, width: int, height: int, sizes: list[tuple[int, int]], suffix: str
) -> None:
    objects = store(width, height, suffix)
    thumbnails = await made(objects, run, width, height)
    assert [(one.width, one.height) for one in thumbnails] == sizes
    for one in thumbnails:
        info = await objects.head(one.file_path)
        assert info is not None
        assert info.content_type == "image/jpeg"
        longest = max(one.width, one.height)
        assert one.file_path == f"results/{TASK.task_id}/thumbnail_{longest}.jpg"
        image = pyvips.Image.jpegload_buffer(objects.contents[one.file_path])
        assert (image.width, image.height) == (one.width, one.height)
        red, _, blue = image.getpoint(image.width // 4, 0)
        assert red - blue > 100
        red, _, blue = image.getpoint(image.width * 3 // 4, 0)
        assert blue - red > 100


async def test_progress_only_grows(run: FakeRun) -> None:
    await made(store(2000, 1000), run, 2000, 1000)
    assert run.told == [0.5, 1.0]


async def test_a_second_run_overwrites_the_first(run: FakeRun) -> None:
    objects = store(2000, 1000)
    first = await made(objects, run, 2000, 1000)
    stored = dict(objects.contents)
    assert await made(objects, run, 2000, 1000) == first
    assert objects.contents == stored


async def test_a_result_that_is_gone_is_not_found(run: FakeRun) -> None:
    with pytest.raises(NotFound) as caught:
        await made(FakeObjects(), run, 10, 10)
    assert caught.value.code == "file_not_found"


async def test_a_sick_bucket_is_not_the_jobs_fault(run: FakeRun) -> None:
    objects = store(400, 400)
    objects.sick = True
    with pytest.raises(Unavailable):
        await made(objects, run, 400, 400)
