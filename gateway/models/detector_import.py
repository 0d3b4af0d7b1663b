"""Makes a model folder for Triton out of someone's own detector: an ONNX of the YOLO family."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, compose

from functions._kit.capabilities import (
    MAX_DETECTIONS,
    check_detector,
    check_rows,
    probe_pictures,
)
from functions._kit.errors import Unprocessable
from functions._kit.ports import ServedModel, TensorSpec
from gateway.models.detector_graph import Graph, add_detections, detector_model
from gateway.models.model_graph import FLOATS, OLDEST_OPSET, PREFIX, network_inputs
from gateway.models.model_import import extra, free_name, load_onnx, write_model

# From centre and size to left, top, right, bottom: boxes @ this.
CORNERS = np.array([[1, 0, 1, 0], [0, 1, 0, 1], [-0.5, 0, 0.5, 0], [0, -0.5, 0, 0.5]], np.float32)
ANCHORS = 3  # YOLOv5 guesses so many boxes in each cell
KEEP_ALL = 1.0  # no two boxes overlap by more
BATCH = 8

CONFIG = """\
name: "{name}"
backend: "openvino"
default_model_filename: "model.onnx"
max_batch_size: {batch}
version_policy {{ specific {{ versions: [ 1 ] }} }}
input [ {{ name: "image" data_type: TYPE_UINT8 dims: [ {height}, {width}, 3 ] }} ]
output [ {{ name: "detections" data_type: TYPE_FP32 dims: [ {rows}, 6 ] label_filename: "labels.txt" }} ]
dynamic_batching {{ priority_levels: 3 default_priority_level: 2 }}
instance_group [ {{ kind: KIND_CPU count: 1 }} ]
model_warmup [ {{ name: "picture" batch_size: 1 inputs {{ key: "image" value {{ data_type: TYPE_UINT8 dims: [ {height}, {width}, 3 ] zero_data: true }} }} }} ]
"""  # noqa: E501 - one line each, as in the published configurations


@dataclass(frozen=True, slots=True)
class AddedDetector:
    """What was made. `layout` is how the network writes its boxes, `batch` its largest batch."""

    name: str
    folder: Path
    layout: str
    labels: tuple[str, ...]
    height: int
    width: int
    batch: int


@dataclass(frozen=True, slots=True)
class _Network:
    """The foreign network and what a run of it has shown."""

    model: onnx.ModelProto
    layout: str
    output: str
    height: int
    width: int
    batch: int


def add_detector(
    file: Path,
    repository: Path,
    labels: Path,
    name: str | None = None,
    *,
    min_score: float = 0.2,
    iou: float = 0.6,
    say: Callable[[str], None] = print,
) -> AddedDetector:
    """Wrap `file` to the contract of `detect` and write REPOSITORY/NAME.

    The network takes planes of 0 to 1, RGB, N x 3 x H x W. Raises `Unprocessable`
    (`model_unsupported`, `model_contract`, `labels_invalid`, `export_missing`,
    `model_name_invalid`) and `Conflict` (`model_exists`).
    """
    name = free_name(name or file.stem, repository)
    names = read_labels(labels)
    if file.suffix != ".onnx":
        raise _unsupported(f"{file.name} is no .onnx: export the detector as ONNX first")
    network = _examine(load_onnx(file), len(names))
    model = wrap(network, name, len(names), min_score, iou)
    parameters = {
        "capability": "detect",
        "labels": ",".join(names),
        "min_score": f"{min_score:g}",
        "iou": f"{iou:g}",
        "streams": "2",
        "precision": "f32",
        "shapes": "fixed",
    }
    _try_out(model, name, parameters, network)
    say(
        f"{name}: {network.layout}, {len(names)} classes, pictures of"
        f" {network.width}x{network.height}, batches of up to {network.batch}"
    )
    config = CONFIG.format(
        name=name,
        batch=network.batch,
        height=network.height,
        width=network.width,
        rows=MAX_DETECTIONS,
    )
    lines = "".join(f"{label}\n" for label in names)
    folder = write_model(repository, name, model, config, parameters, labels=lines)
    return AddedDetector(
        name, folder, network.layout, tuple(names), network.height, network.width, network.batch
    )


def read_labels(file: Path) -> list[str]:
    """One name a line. Raises `Unprocessable` (`labels_invalid`)."""
    try:
        names = file.read_text(encoding="utf-8").rstrip().split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise _bad_labels(f"{file.name} cannot be read as UTF-8 text: {error}") from error
    for number, name in enumerate(names, 1):
        if not name or name != name.strip() or set(name) & set(',"\\') or not name.isprintable():
            raise _bad_labels(
                f"line {number} of {file.name} is {name!r}: each line must name one class,"
                " without commas, quotes, backslashes and spaces around it"
            )
        if name in names[: number - 1]:
            raise _bad_labels(f"line {number} of {file.name} repeats {name!r}: names must differ")
    return names


def _examine(model: onnx.ModelProto, classes: int) -> _Network:
    """Run the network once or twice and see how it writes its boxes."""
    inputs = network_inputs(model)
    if len(inputs) != 1:
        raise _unsupported(f"it has {len(inputs)} inputs and must have one, the picture")
    (source,) = inputs
    dims = source.type.tensor_type.shape.dim
    if source.type.tensor_type.elem_type not in FLOATS or len(dims) != 4 or dims[1].dim_value != 3:
        raise _unsupported("the input must be float planes in RGB, N x 3 x H x W")
    height, width = dims[2].dim_value, dims[3].dim_value
    if not (height and width):
        raise _unsupported("height and width are open: export with one size, as in imgsz=640")
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    if opset < OLDEST_OPSET:
        raise _unsupported(f"opset {opset} is too old: export with opset {OLDEST_OPSET} or newer")
    half = source.type.tensor_type.elem_type == TensorProto.FLOAT16
    planes = np.zeros((BATCH, 3, height, width), np.float16 if half else np.float32)
    session = _session(model)
    answers = _run(session, {source.name: planes[:1]})
    found = {
        name: layout
        for name, answer in answers.items()
        if (layout := _layout(answer.shape, classes, height, width))
    }
    if len(found) != 1:
        shapes = ", ".join("x".join(map(str, answer.shape)) for answer in answers.values())
        raise _unsupported(
            f"its output is {shapes}, and with {classes} labels one must be 1 x boxes x"
            f" {5 + classes} (YOLOv5), 1 x {4 + classes} x boxes (YOLOv8, v11) or 1 x boxes x 6"
            " (end to end): does labels.txt name each class of the network, no more, no fewer?"
        )
    ((output, layout),) = found.items()
    batch = BATCH if not dims[0].dim_value and _takes_batches(session, source.name, planes) else 1
    return _Network(model, layout, output, height, width, batch)


def _layout(shape: tuple[int, ...], classes: int, height: int, width: int) -> str:
    """Which of the three layouts this output is; empty where it is none."""
    if len(shape) != 3:
        return ""
    cells = sum((height // stride) * (width // stride) for stride in (8, 16, 32))
    sixth = cells + (height // 64) * (width // 64)
    # With one label, YOLOv5 has six columns as well; its boxes are three to a cell.
    if shape[2] == 5 + classes and (
        shape[2] != 6 or shape[1] in (ANCHORS * cells, ANCHORS * sixth)
    ):
        return "YOLOv5"
    if shape[2] == 6:
        return "end to end"
    return "YOLOv8" if shape[1] == 4 + classes else ""


def _takes_batches(session: Any, source: str, planes: NDArray[Any]) -> bool:
    """Whether the network computes several pictures at once, as one that is open there may not."""
    try:
        answers = _run(session, {source: planes})
    except Unprocessable:
        return False
    return all(len(answer) == len(planes) for answer in answers.values())


def wrap(
    network: _Network, name: str, classes: int, min_score: float, iou: float
) -> onnx.ModelProto:
    """The network between bytes and detections."""
    (source,) = network_inputs(network.model)
    inner = compose.add_prefix(network.model, PREFIX)
    graph = Graph()
    white = graph.constant("white", np.array(255, np.float32))
    numbers = graph.add("Cast", ["image"], "numbers", to=TensorProto.FLOAT)
    unit = graph.add("Div", [numbers, white], "unit")
    planes = graph.add("Transpose", [unit], "planes", perm=[0, 3, 1, 2])
    kind = source.type.tensor_type.elem_type
    graph.add("Cast", [planes], PREFIX + source.name, to=kind)
    graph.nodes.extend(inner.graph.node)
    graph.constants.extend(inner.graph.initializer)
    answer = graph.add("Cast", [PREFIX + network.output], "answer", to=TensorProto.FLOAT)
    if network.layout == "YOLOv8":
        answer = graph.add("Transpose", [answer], "answer.rows", perm=[0, 2, 1])
    box = _columns(graph, answer, "answer.box", 0, 4)
    if network.layout == "end to end":
        iou = KEEP_ALL  # it has sorted its boxes out by itself
        scores = _scores_by_class(graph, answer, classes)
    else:
        box = graph.add("MatMul", [box, graph.constant("corners.of", CORNERS)], "corners")
        scores = _scores(graph, answer, network.layout, classes)
    zero = graph.constant("picture.start", np.zeros(1, np.float32))
    side = np.array([network.width, network.height] * 2, np.float32)
    low = graph.add("Max", [box, zero], "boxes.low")
    boxes = graph.add("Min", [low, graph.constant("picture.end", side)], "boxes")
    add_detections(graph, boxes, scores, min_score=min_score, iou=iou)
    batch = "batch" if network.batch > 1 else 1
    return detector_model(graph, name, network.height, network.width, batch=batch, like=inner)


def _columns(graph: Graph, rows: str, output: str, start: int, stop: int) -> str:
    limits = [
        graph.numbers(f"{output}.{word}", number)
        for word, number in (("from", start), ("to", stop), ("axis", 2))
    ]
    return graph.add("Slice", [rows, *limits], output)


def _scores(graph: Graph, answer: str, layout: str, classes: int) -> str:
    """N x classes x boxes; YOLOv5's are each box's own score times the class's."""
    first = 5 if layout == "YOLOv5" else 4
    scores = _columns(graph, answer, "answer.classes", first, first + classes)
    if layout == "YOLOv5":
        scores = graph.add("Mul", [scores, _columns(graph, answer, "answer.any", 4, 5)], "product")
    return graph.add("Transpose", [scores], "scores", perm=[0, 2, 1])


def _scores_by_class(graph: Graph, answer: str, classes: int) -> str:
    """N x classes x boxes out of one score and one class for each box."""
    score = _columns(graph, answer, "answer.score", 4, 5)
    label = _columns(graph, answer, "answer.class", 5, 6)
    numbers = graph.constant("classes", np.arange(classes, dtype=np.float32))
    own = graph.add("Equal", [label, numbers], "own.class")
    own = graph.add("Cast", [own], "own.class.number", to=TensorProto.FLOAT)
    scores = graph.add("Mul", [own, score], "answer.classes")
    return graph.add("Transpose", [scores], "scores", perm=[0, 2, 1])


def _try_out(
    model: onnx.ModelProto, name: str, parameters: dict[str, str], network: _Network
) -> None:
    """Hold the wrapped model against the contract. Raises `Unprocessable` (`model_contract`)."""
    picture = TensorSpec("UINT8", (network.height, network.width, 3))
    rows = TensorSpec("FP32", (MAX_DETECTIONS, 6))
    served = ServedModel(name, "1", parameters, {"image": picture}, {"detections": rows})
    check_detector(served)
    session = _session(model)
    for probe in probe_pictures(network.height, network.width):
        check_rows(served, _run(session, {"image": probe})["detections"])


def _session(model: onnx.ModelProto) -> Any:
    try:
        return extra("onnxruntime").InferenceSession(model.SerializeToString())
    except Unprocessable:
        raise
    except Exception as error:  # ONNX Runtime's errors share no base class
        raise _unsupported(f"ONNX Runtime does not take it: {error}") from error


def _run(session: Any, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    try:
        answers = session.run(None, inputs)
    except Exception as error:  # ONNX Runtime's errors share no base class
        raise _unsupported(f"it fails on a picture: {error}") from error
    names = (output.name for output in session.get_outputs())
    return {name: np.asarray(answer) for name, answer in zip(names, answers, strict=True)}


def _bad_labels(message: str) -> Unprocessable:
    return Unprocessable("labels_invalid", f"labels: {message}.", field="labels")


def _unsupported(message: str) -> Unprocessable:
    return Unprocessable("model_unsupported", f"The ONNX does not fit: {message}.", field="file")
