"""Detectors of one's own: each layout of the YOLO family, as others export it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import openvino  # type: ignore[import-untyped]
import pytest
from click.testing import CliRunner
from google.protobuf import text_format  # type: ignore[import-untyped]
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tritonclient.grpc.model_config_pb2 import ModelConfig

from functions._kit.errors import Unprocessable
from gateway.cli.main import main
from gateway.models.detector_graph import Graph, add_detections, detector_model
from gateway.models.detector_import import add_detector

SIDE = 64
LABELS = ("red", "green", "blue")
# Centre and size of four boxes, and what share of each class's colour is their score.
BOXES = np.array([[20, 20, 20, 10], [21, 20, 20, 10], [60, 32, 20, 20], [32, 50, 8, 8]], np.float32)
SHARES = np.array([[1, 1, 0], [0.9, 0, 0], [0, 0.9, 0], [0, 0, 1]], np.float32)
PICTURE = np.full((1, SIDE, SIDE, 3), (204, 128, 26), np.uint8)
# The second box lies on the first, the third reaches over the edge, the fourth is too faint.
FOUND = [
    [10, 15, 20, 10, 0.8, 0],
    [10, 15, 20, 10, 128 / 255, 1],
    [50, 22, 14, 20, 0.9 * 128 / 255, 1],
]
LAYOUTS = {"YOLOv5": (4, 8), "YOLOv8": (7, 4), "end to end": (3, 6)}


def quiet(_line: str) -> None:
    """The user's terminal."""


def detector(
    file: Path,
    layout: str,
    *,
    kind: int = TensorProto.FLOAT,
    batch: Any = "b",
    size: Any = (SIDE, SIDE),
    opset: int = 17,
) -> Path:
    """A network whose boxes stand still and whose scores are the mean colours of the picture."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["colours"]),
        helper.make_node("Reshape", ["colours", "shape"], ["column"]),
        helper.make_node("Transpose", ["column"], ["row"], perm=[0, 2, 1]),
        helper.make_node("Mul", ["row", "shares"], ["classes"]),
        helper.make_node("ReduceMax", ["row"], ["most"], axes=[1, 2]),
        helper.make_node("Mul", ["most", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "boxes"], ["standing"]),
    ]
    joined = ["standing", "classes"]
    boxes, shares = BOXES, SHARES
    if layout == "YOLOv5":
        boxes = np.concatenate([BOXES, np.full((4, 1), 0.5, np.float32)], 1)
        shares = 2 * SHARES
    elif layout == "end to end":
        corners = np.concatenate(
            [BOXES[:, :2] - BOXES[:, 2:] / 2, BOXES[:, :2] + BOXES[:, 2:] / 2], 1
        )
        boxes = np.concatenate([corners, [[0], [0], [1], [2]]], 1)[[0, 2, 3]].astype(np.float32)
        shares = SHARES[[0, 2, 3]] * np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)
        nodes += [
            helper.make_node("ReduceMax", ["classes"], ["score"], axes=[2]),
            helper.make_node("Split", ["standing", "parts"], ["corners", "label"], axis=2),
        ]
        joined = ["corners", "score", "label"]
    nodes.append(helper.make_node("Concat", joined, ["rows"], axis=2))
    last = "Transpose" if layout == "YOLOv8" else "Identity"
    how: dict[str, Any] = {"perm": [0, 2, 1]} if layout == "YOLOv8" else {}
    nodes.append(helper.make_node(last, ["rows"], ["y"], **how))
    numbers = helper.tensor_dtype_to_np_dtype(kind)
    constants: dict[str, NDArray[Any]] = {
        "shape": np.array([0, 0, 1]),
        "parts": np.array([4, 1]),
        "zero": np.array(0, numbers),
        "boxes": boxes[None].astype(numbers),
        "shares": shares[None].astype(numbers),
    }
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "detector",
        [helper.make_tensor_value_info("x", kind, [batch, 3, *size])],
        [helper.make_tensor_value_info("y", kind, [batch, "p", "q"])],
        [numpy_helper.from_array(a, name) for name, a in constants.items() if name in used],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    onnx.save(model, str(file))
    return file


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    file = tmp_path / "labels.txt"
    file.write_text("\n".join(LABELS) + "\n")
    return file


def run(folder: Path, image: Any) -> Any:
    session = onnxruntime.InferenceSession(str(folder / "1" / "model.onnx"))
    return session.run(None, {"image": image})[0]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.FLOAT16])
def test_each_layout_gives_the_same_detections(
    tmp_path: Path, labels: Path, layout: str, kind: int
) -> None:
    file = detector(tmp_path / "net.onnx", layout, kind=kind)
    added = add_detector(file, tmp_path, labels, say=quiet)
    assert (added.name, added.layout, added.labels) == ("net", layout, LABELS)
    assert (added.height, added.width, added.batch) == (SIDE, SIDE, 8)
    rows = run(added.folder, PICTURE)
    # An end-to-end network gives each box one class: the green one of the first box is not there.
    expected = [row for row in FOUND if layout != "end to end" or row[0] == 50 or row[5] == 0]
    assert rows.shape == (1, 100, 6)
    assert not rows[0, len(expected) :].any()
    tolerance = 1e-4 if kind == TensorProto.FLOAT else 2e-2
    np.testing.assert_allclose(rows[0, : len(expected)], expected, atol=tolerance)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_openvino_finds_the_same_as_onnx_runtime_in_a_batch(
    tmp_path: Path, labels: Path, layout: str
) -> None:
    added = add_detector(detector(tmp_path / "a.onnx", layout), tmp_path, labels, say=quiet)
    pictures = np.concatenate([PICTURE, np.zeros_like(PICTURE), PICTURE[..., ::-1]])
    compiled = openvino.compile_model(
        str(added.folder / "1" / "model.onnx"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    rows = compiled(pictures)["detections"]
    assert not rows[1].any()
    np.testing.assert_allclose(rows, run(added.folder, pictures), atol=1e-4)


def test_the_folder_says_what_the_graph_is(tmp_path: Path, labels: Path) -> None:
    file = detector(tmp_path / "a.onnx", "YOLOv8")
    added = add_detector(file, tmp_path, labels, "mine", min_score=0.45, iou=0.5, say=quiet)
    config = text_format.Parse((added.folder / "config.pbtxt").read_text(), ModelConfig())
    parameters = {key: value.string_value for key, value in config.parameters.items()}
    assert (config.name, config.max_batch_size) == ("mine", 8)
    assert list(config.input[0].dims) == [SIDE, SIDE, 3]
    assert parameters["capability"] == "detect"
    assert parameters["labels"].split(",") == list(LABELS)
    assert (added.folder / "labels.txt").read_text() == labels.read_text()
    assert (parameters["min_score"], parameters["iou"]) == ("0.45", "0.5")
    assert (run(added.folder, PICTURE)[0, :, 4] > 0).sum() == 3


def test_a_network_for_one_picture_is_served_one_by_one(tmp_path: Path, labels: Path) -> None:
    file = detector(tmp_path / "a.onnx", "YOLOv8", batch=1)
    added = add_detector(file, tmp_path, labels, say=quiet)
    assert added.batch == 1
    assert "max_batch_size: 1\n" in (added.folder / "config.pbtxt").read_text()
    np.testing.assert_allclose(run(added.folder, PICTURE)[0, :3], FOUND, atol=1e-4)


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        ({"size": ("h", "w")}, "imgsz"),
        ({"opset": 12}, "opset 12"),
        ({"kind": TensorProto.DOUBLE}, "float planes"),
    ],
)
def test_a_network_of_another_form_is_refused_with_the_reason(
    tmp_path: Path, labels: Path, made: dict[str, Any], reason: str
) -> None:
    file = detector(tmp_path / "a.onnx", "YOLOv8", **made)
    with pytest.raises(Unprocessable, match=reason) as caught:
        add_detector(file, tmp_path, labels, say=quiet)
    assert caught.value.code == "model_unsupported"
    assert not (tmp_path / "a").exists()


def test_labels_of_another_number_are_refused_with_both_numbers(
    tmp_path: Path, labels: Path
) -> None:
    labels.write_text("one\ntwo\n")
    file = detector(tmp_path / "a.onnx", "YOLOv8")
    with pytest.raises(Unprocessable, match=r"1x7x4, and with 2 labels .* 1 x 6 x boxes"):
        add_detector(file, tmp_path, labels, say=quiet)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "line 1"),
        ("red\n\nblue\n", "line 2"),
        ("red\ngreen, light\nblue", "commas"),
        ("red\n green\nblue", "spaces around"),
        ("red\nred\nblue", "repeats 'red'"),
        ('red\n"green"\nblue', "quotes"),
        (b"\xff\xfe", "UTF-8"),
    ],
)
def test_labels_that_a_config_cannot_hold_are_refused(
    tmp_path: Path, labels: Path, text: str | bytes, reason: str
) -> None:
    labels.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(Unprocessable, match=reason) as caught:
        add_detector(detector(tmp_path / "a.onnx", "YOLOv8"), tmp_path, labels, say=quiet)
    assert caught.value.code == "labels_invalid"


def test_a_network_whose_scores_are_no_scores_breaks_the_contract(
    tmp_path: Path, labels: Path
) -> None:
    file = detector(tmp_path / "a.onnx", "YOLOv8")
    model = onnx.load(str(file))
    shares = next(c for c in model.graph.initializer if c.name == "shares")
    shares.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(shares) * 9, "shares"))
    onnx.save(model, str(file))
    with pytest.raises(Unprocessable, match="a score is above 1") as caught:
        add_detector(file, tmp_path, labels, say=quiet)
    assert caught.value.code == "model_contract"
    assert not (tmp_path / "a").exists()


def test_a_hundred_of_more_are_kept_in_each_picture_of_a_batch(tmp_path: Path) -> None:
    graph = Graph()
    corner = np.arange(150, dtype=np.float32) * 10
    boxes = np.stack([corner, corner, corner + 5, corner + 5], 1)[None].repeat(2, 0)
    scores = np.zeros((2, 2, 150), np.float32)
    scores[0, 0] = np.linspace(0.9, 0.3, 150)
    scores[1, 1, 7] = 0.5
    add_detections(
        graph, graph.constant("boxes", boxes), graph.constant("scores", scores),
        min_score=0.2, iou=0.5,
    )  # fmt: skip
    (tmp_path / "1").mkdir()
    model = detector_model(graph, "many", 8, 8)
    (tmp_path / "1" / "model.onnx").write_bytes(model.SerializeToString())
    rows = run(tmp_path, np.zeros((2, 8, 8, 3), np.uint8))
    np.testing.assert_allclose(rows[0, :, 4], scores[0, 0, :100])
    np.testing.assert_allclose(rows[1, 0], [70, 70, 5, 5, 0.5, 1])
    assert not rows[1, 1:].any()


def test_the_command_adds_a_detector_and_asks_for_its_labels(
    tmp_path: Path, labels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEREID_MODEL_REPOSITORY", str(tmp_path))
    monkeypatch.setenv("NEREID_DATA", str(tmp_path / "data"))
    words = [
        "models",
        "add",
        str(detector(tmp_path / "a.onnx", "YOLOv5")),
        "--capability",
        "detect",
    ]
    without = CliRunner().invoke(main, words)
    assert (without.exit_code, "--labels" in without.output) == (1, True)
    done = CliRunner().invoke(main, [*words, "--labels", str(labels)])
    assert done.exit_code == 0, done.output
    assert "a: YOLOv5, 3 classes, pictures of 64x64" in done.output
    assert (tmp_path / "a" / "1" / "model.onnx").exists()
