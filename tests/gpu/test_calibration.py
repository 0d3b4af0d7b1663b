"""Pictures for INT8, and what becomes of a calibration that fails midway."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engines.build import Order, build_plan
from engines.calibration import Feed, Pictures, make_calibrator
from engines.errors import EngineError
from engines.gpu import Cuda
from engines.graphs import for_tensorrt
from engines.pictures import batches, pictures_in
from engines.profiles import Shapes
from tests.gpu import fake_tensorrt as trt
from tests.gpu.conftest import small_graph
from tests.gpu.fake_cuda import H200, FakeCuda

SHAPE = (1, 16, 24, 3)


def photo(folder: Path, name: str, width: int, height: int) -> Path:
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[height // 2, width // 2] = 255
    Image.fromarray(pixels).save(folder / name)
    return folder / name


def test_a_tile_is_cut_from_the_middle_and_a_small_picture_enlarged(tmp_path: Path) -> None:
    files = [photo(tmp_path, "large.png", 100, 80), photo(tmp_path, "small.png", 6, 6)]
    large, small = batches(files, SHAPE, letterboxed=False)
    assert large.shape == small.shape == SHAPE
    assert large[0, 8, 12].tolist() == [255, 255, 255]
    assert small.any()


def test_a_detector_sees_the_whole_picture_with_grey_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "tall.png"
    Image.new("RGB", (20, 40), (9, 9, 9)).save(file)
    (batch,) = batches([file], SHAPE, letterboxed=True)
    assert (batch[0, :, :8] == 9).all()
    assert (batch[0, :, 8:] == 114).all()


def test_whole_batches_alone_are_shown(tmp_path: Path) -> None:
    files = [photo(tmp_path, f"{index}.png", 30, 30) for index in range(5)]
    assert [batch.shape[0] for batch in batches(files, (2, 16, 24, 3), letterboxed=False)] == [2, 2]
    with pytest.raises(EngineError, match="do not fill one batch of 8"):
        next(batches(files, (8, 16, 24, 3), letterboxed=False))


def test_a_folder_without_pictures_is_said(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("none")
    with pytest.raises(EngineError, match="holds no picture"):
        pictures_in(tmp_path)


@pytest.mark.parametrize("fault", ["picture", "memory", "input"])
def test_a_calibration_that_fails_midway_fails_the_build_and_keeps_nothing(
    tmp_path: Path, fault: str
) -> None:
    files = [photo(tmp_path, "0.png", 30, 30), tmp_path / "1.png"]
    files[1].write_bytes(b"no picture" if fault == "picture" else files[0].read_bytes())
    cuda = Cuda(FakeCuda(H200, memory_bytes=10 if fault == "memory" else 10_000))
    name = "mask" if fault == "input" else "image"
    pictures = Pictures(name, SHAPE, batches(files, SHAPE, letterboxed=False))
    cache = tmp_path / "calibration"
    order = Order(
        name="small",
        graph=for_tensorrt(small_graph()).SerializeToString(),
        profile={"image": Shapes((1, 1, 1, 3), SHAPE, (2, 64, 64, 3))},
        precision="int8",
        timing_cache=tmp_path / "timing",
        workspace_bytes=1,
        calibrator=make_calibrator(trt, pictures, Feed(cuda, pictures, cache)),
    )
    reasons = {
        "picture": "1.png is no picture",
        "memory": "cuMemAlloc_v2 returned 2",
        "input": "pictures for `mask`",
    }
    with pytest.raises(EngineError, match=f"calibration failed: .*{reasons[fault]}"):
        build_plan(trt, order)
    assert not cache.exists()
