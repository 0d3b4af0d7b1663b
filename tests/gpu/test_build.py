"""Building an engine, against the stand-in for TensorRT."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from build_engines import main
from engines.build import Order, build_plan
from engines.errors import EngineError
from engines.graphs import for_tensorrt
from engines.pins import pin_ends
from engines.profiles import Shapes
from gateway.settings import CHECKOUT
from tests.gpu import fake_tensorrt as trt
from tests.gpu.conftest import CONFIG, Gpus, small_graph
from tests.gpu.fake_cuda import H200, L4

SHAPES = Shapes((1, 1, 1, 3), (1, 16, 24, 3), (2, 64, 64, 3))
H200_PLAN = "model.nvidia-h200.sm90.trt10.9.0.34.fp16.plan"


def order(tmp_path: Path, precision: str = "fp16", **changed: Any) -> Order:
    graph = for_tensorrt(small_graph()).SerializeToString()
    words = {"name": "small", "graph": graph, "profile": {"image": SHAPES}, "precision": precision}
    words |= {"timing_cache": tmp_path / "cache" / "timing", "workspace_bytes": 2**30}
    return Order(**(words | changed))


def last() -> trt.Build:
    assert trt.Builder.last is not None
    return trt.Builder.last


def test_an_engine_is_built_with_its_profile_in_fp16(tmp_path: Path) -> None:
    plan = build_plan(trt, order(tmp_path))
    config = last().config
    assert plan.startswith(b"plan")
    assert {flag.name for flag in config.flags} == {"FP16", "OBEY_PRECISION_CONSTRAINTS", "TF32"}
    assert config.profiles[0].shapes == {"image": [SHAPES.minimum, SHAPES.optimum, SHAPES.maximum]}
    assert config.workspace == 2**30


def test_fp32_means_fp32_and_not_tf32(tmp_path: Path) -> None:
    build_plan(trt, order(tmp_path, "fp32"))
    assert last().config.flags == set()
    assert all(layer.precision is None for layer in last().network.layers)


def test_what_stands_before_and_behind_the_convolutions_is_pinned_to_fp32(tmp_path: Path) -> None:
    build_plan(trt, order(tmp_path))
    layers = last().network.layers
    pinned = {layer.get_output(0).name for layer in layers if layer.precision is trt.float32}
    assert pinned == {"halved", "planes", "doubled", "upscaled.numbers"}
    assert all(layer.output_types == {0: trt.float32} for layer in layers if layer.precision)


def test_boxes_and_nms_of_the_detector_are_pinned_and_its_network_is_not() -> None:
    model = onnx.load(str(CHECKOUT / "model_repository" / "nanodet-g-416" / "1" / "model.onnx"))
    network = trt.Network()
    assert trt.OnnxParser(network, trt.Logger(2)).parse(for_tensorrt(model).SerializeToString())
    pin_ends(trt, network)
    pinned = {layer.get_output(0).name for layer in network.layers if layer.precision}
    assert {"boxes", "scores", "stride8.shares", "ranked.score", "detections", "centred"} <= pinned
    kinds = [layer for layer in network.layers if layer.type is trt.LayerType.CONVOLUTION]
    assert len(kinds) == 34
    assert not any(layer.precision for layer in kinds)


def test_a_timing_cache_is_kept_and_one_of_another_gpu_is_not_used(tmp_path: Path) -> None:
    wanted = order(tmp_path)
    build_plan(trt, wanted)
    assert wanted.timing_cache.read_bytes() == b"measured"
    wanted.timing_cache.write_bytes(b"measured before")
    build_plan(trt, wanted)
    assert wanted.timing_cache.read_bytes() == b"measured before"
    wanted.timing_cache.write_bytes(b"of another GPU")
    build_plan(trt, wanted)
    assert wanted.timing_cache.read_bytes() == b"measured"


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"graph": b"no graph"}, "cannot read the graph"),
        ({"graph": small_graph().SerializeToString()}, "UINT8 types for intermediate"),
        ({"profile": {}}, r"the ONNX has the inputs \['image'\], and configs"),
        ({"profile": {"picture": SHAPES}}, r"configs/tensorrt.pbtxt \['picture'\]"),
        ({"profile": {"image": SHAPES, "mask": SHAPES}}, r"\['image', 'mask'\]"),
        (
            {"profile": {"image": Shapes((1, -1, -1, 3), (1, 16, 24, 3), (2, 64, 64, 3))}},
            "TensorRT refuses the profile",
        ),
        (
            {"profile": {"image": Shapes((2, 1, 1, 3), (1, 16, 24, 3), (2, 64, 64, 3))}},
            "TensorRT refuses the profile: .* out of order",
        ),
        ({"precision": "fp8"}, "'fp8' is none of fp32, fp16, int8"),
        ({"precision": "int8"}, "TensorRT built no engine"),
    ],
)
def test_what_cannot_be_built_is_said_in_a_sentence(
    tmp_path: Path, changed: dict[str, Any], reason: str
) -> None:
    with pytest.raises(EngineError, match=reason):
        build_plan(trt, order(tmp_path, **changed))
    assert not (tmp_path / "cache").exists()


def build(repository: Path, *words: str) -> int:
    cache = str(repository.parent / "cache")
    return main(["build", *words, "--repository", str(repository), "--cache", cache])


def test_the_command_builds_once_and_names_the_engine(
    repository: Path, gpus: Gpus, capsys: pytest.CaptureFixture[str]
) -> None:
    gpus(H200)
    assert build(repository) == 0
    assert "small version 1 is built and chosen" in capsys.readouterr().out
    folder = repository / "small" / "1"
    plan = (folder / H200_PLAN).read_bytes()
    assert (folder / "model.plan").read_bytes() == plan
    told = json.loads((folder / "engine.json").read_text())
    assert told["gpu"] == "NVIDIA H200"
    assert told["profile"] == {"image": [[1, 1, 1, 3], [1, 16, 24, 3], [2, 64, 64, 3]]}
    cache = repository.parent / "cache" / "nvidia-h200.sm90.trt10.9.0.34.timing"
    assert cache.read_bytes() == b"measured"

    trt.Builder.last = None
    assert build(repository) == 0
    assert trt.Builder.last is None
    assert "was built before and chosen" in capsys.readouterr().out
    assert build(repository, "--force") == 0
    assert trt.Builder.last is not None


def test_engines_of_two_gpus_lie_beside_each_other_and_the_last_is_served(
    repository: Path, gpus: Gpus
) -> None:
    folder = repository / "small" / "1"
    gpus(H200)
    assert build(repository) == 0
    gpus(L4)
    assert build(repository) == 0
    assert len(list(folder.glob("model.nvidia-*.plan"))) == 2
    assert json.loads((folder / "engine.json").read_text())["compute_capability"] == "8.9"


@pytest.mark.parametrize("change", ["onnx", "shapes", "plan"])
def test_an_engine_of_something_else_is_built_anew(
    repository: Path, gpus: Gpus, change: str
) -> None:
    gpus(H200)
    assert build(repository) == 0
    folder = repository / "small"
    if change == "onnx":
        onnx.save(small_graph(bias=1), str(folder / "1" / "model.onnx"))
    elif change == "shapes":
        (folder / "configs" / "tensorrt.pbtxt").write_text(CONFIG.replace('"64"', '"128"'))
    else:
        (folder / "1" / H200_PLAN).write_bytes(b"half a pl")
    trt.Builder.last = None
    assert build(repository) == 0
    assert trt.Builder.last is not None


def test_int8_is_calibrated_with_pictures_and_what_was_learned_is_kept(
    repository: Path, gpus: Gpus, tmp_path: Path
) -> None:
    fake, photos = gpus(H200), tmp_path / "photos"
    photos.mkdir()
    for index in range(3):
        shade = np.full((20 + 40 * index, 30, 3), index + 1, np.uint8)
        Image.fromarray(shade).save(photos / f"{index}.png")
    words = ("small", "--int8", "--pictures", str(photos))
    assert build(repository, *words) == 0
    assert len(last().batches) == 3
    assert last().config.calibration_profile is last().config.profiles[0]
    (held,) = fake.memory.values()
    assert held == bytes([3]) * (16 * 24 * 3)  # the last batch, in the optimal shape
    folder = repository / "small" / "1"
    (learned,) = folder.glob("calibration.*")
    assert learned.read_bytes() == b"ranges"
    assert (folder / H200_PLAN.replace("fp16", "int8")).exists()

    assert build(repository, *words, "--force") == 0
    assert last().batches == []
    Image.new("RGB", (30, 30)).save(photos / "more.png")
    assert build(repository, *words, "--force") == 0
    assert len(last().batches) == 4


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["small", "--int8"], "wants --pictures DIR"),
        (["--int8", "--pictures", "/nowhere"], "wants the names of the models"),
        (["small", "--int8", "--pictures", "/nowhere"], "no folder of pictures /nowhere"),
        (["large"], "there is no model large"),
    ],
)
def test_a_wrong_command_is_answered_with_the_way_out(
    repository: Path, gpus: Gpus, capsys: pytest.CaptureFixture[str], words: list[str], reason: str
) -> None:
    gpus(H200)
    assert build(repository, *words) == 1
    assert reason in capsys.readouterr().err


def test_int8_is_refused_where_fp32_is_meant(
    repository: Path, gpus: Gpus, capsys: pytest.CaptureFixture[str]
) -> None:
    gpus(H200)
    fine = CONFIG.replace('"fp16"', '"fp32"')
    (repository / "small" / "configs" / "tensorrt.pbtxt").write_text(fine)
    photos = str(CHECKOUT / "tests" / "data" / "pictures")
    assert build(repository, "small", "--int8", "--pictures", photos) == 1
    assert "computes in FP32 alone" in capsys.readouterr().err
