"""Upscalers of one's own: ONNX as others export it, and checkpoints of PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from google.protobuf import text_format  # type: ignore[import-untyped]
from onnx import TensorProto, helper, numpy_helper
from tritonclient.grpc.model_config_pb2 import ModelConfig

from functions._kit.errors import Conflict, Unprocessable
from gateway.models.model_import import add_model


def quiet(_line: str) -> None:
    """The user's terminal."""


def doubler(
    file: Path,
    *,
    kind: int = TensorProto.FLOAT,
    channels: int = 3,
    size: Any = ("h", "w"),
    opset: int = 17,
) -> Path:
    """Planes 0..1 in, a 3x3 mean of them, twice as large, out."""
    kernel = np.zeros((channels, channels, 3, 3), np.float32)
    for channel in range(channels):
        kernel[channel, channel] = 1 / 9
    numbers = helper.tensor_dtype_to_np_dtype(kind)
    nodes = [
        helper.make_node("Conv", ["x", "kernel"], ["mean"], pads=[1, 1, 1, 1]),
        helper.make_node("Resize", ["mean", "roi", "scales"], ["y"], mode="nearest",
                         nearest_mode="floor", coordinate_transformation_mode="asymmetric"),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "doubler",
        [helper.make_tensor_value_info("x", kind, ["b", channels, *size])],
        [helper.make_tensor_value_info("y", kind, ["b", channels, "H", "W"])],
        [
            numpy_helper.from_array(kernel.astype(numbers), "kernel"),
            numpy_helper.from_array(np.array([], np.float32), "roi"),
            numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    onnx.save(model, str(file))
    return file


def run(folder: Path, image: Any) -> Any:
    session = onnxruntime.InferenceSession(str(folder / "1" / "model.onnx"))
    return session.run(None, {"image": image[None]})[0][0]


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.FLOAT16])
def test_planes_of_floats_become_pictures_of_8_and_of_16_bits(tmp_path: Path, kind: int) -> None:
    added = add_model(doubler(tmp_path / "mean.onnx", kind=kind), tmp_path, say=quiet)
    assert (added.name, added.scale, added.largest_difference) == ("mean", 2, None)
    assert [folder.name for folder in added.folders] == ["mean", "mean-16bit"]
    image = np.full((6, 8, 3), (10, 128, 255), np.uint8)
    upscaled = run(added.folders[0], image)
    assert (upscaled.dtype, upscaled.shape) == (np.uint8, (12, 16, 3))
    assert (upscaled[2:-2, 2:-2] == image[0, 0]).all()
    deep = run(added.folders[1], np.full((6, 8, 3), 40_001, np.float32))
    assert abs(deep[2:-2, 2:-2] - 40_001).max() <= (0 if kind == TensorProto.FLOAT else 40)


def test_the_config_says_what_the_graph_is(tmp_path: Path) -> None:
    add_model(doubler(tmp_path / "a.onnx"), tmp_path, "mine", say=quiet)
    config = text_format.Parse((tmp_path / "mine" / "config.pbtxt").read_text(), ModelConfig())
    parameters = {key: value.string_value for key, value in config.parameters.items()}
    assert (config.name, config.backend, config.max_batch_size) == ("mine", "openvino", 8)
    assert {"scale": "2", "halo": "8", "bits": "8"}.items() <= parameters.items()


def test_a_halo_that_is_given_is_kept(tmp_path: Path) -> None:
    added = add_model(doubler(tmp_path / "a.onnx"), tmp_path, halo=120, say=quiet)
    assert added.halo == 120
    assert '"518400"' in (added.folders[0] / "config.pbtxt").read_text()


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        ({"channels": 1}, "3 channels"),
        ({"size": (64, 64)}, "dynamic axes"),
        ({"opset": 11}, "opset 11"),
        ({"kind": TensorProto.DOUBLE}, "float"),
    ],
)
def test_a_graph_of_another_form_is_refused_with_the_reason(
    tmp_path: Path, made: dict[str, Any], reason: str
) -> None:
    with pytest.raises(Unprocessable, match=reason) as caught:
        add_model(doubler(tmp_path / "a.onnx", **made), tmp_path, say=quiet)
    assert caught.value.code == "model_unsupported"
    assert list(tmp_path.glob("a*/")) == []


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    for name in ("text.onnx", "text.zip"):
        (tmp_path / name).write_text("hello")
        with pytest.raises(Unprocessable) as caught:
            add_model(tmp_path / name, tmp_path, say=quiet)
        assert caught.value.code == "model_unsupported"


def test_a_name_that_is_taken_or_leads_elsewhere_is_refused(tmp_path: Path) -> None:
    file = doubler(tmp_path / "a.onnx")
    (tmp_path / "b-16bit").mkdir()
    with pytest.raises(Conflict):
        add_model(file, tmp_path, "b", say=quiet)
    for name in ("../b", ".b", "b/c", "b\0", "b" * 65):
        with pytest.raises(Unprocessable) as caught:
            add_model(file, tmp_path, name, say=quiet)
        assert caught.value.code == "model_name_invalid"


@pytest.mark.export
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_checkpoint_becomes_the_same_network(tmp_path: Path, suffix: str) -> None:
    torch = pytest.importorskip("torch", reason="needs PyTorch (the extra `export`)")
    compact = pytest.importorskip("spandrel.architectures.Compact", reason="needs spandrel")
    torch.manual_seed(0)
    network = compact.Compact(num_feat=16, num_conv=2, upscale=2).eval()
    file = tmp_path / f"tiny{suffix}"
    if suffix == ".pth":
        torch.save({"params": network.state_dict()}, file)
    else:
        files = pytest.importorskip("safetensors.torch", reason="needs safetensors")
        files.save_file(network.state_dict(), file)
    added = add_model(file, tmp_path, say=quiet)
    assert (added.scale, added.architecture) == (2, "RealESRGAN Compact")
    assert added.largest_difference is not None
    assert added.largest_difference < 1e-4
    image = np.random.default_rng(0).integers(0, 256, (33, 20, 3)).astype(np.uint8)
    planes = torch.from_numpy(image.transpose(2, 0, 1)[None].astype(np.float32) / 255)
    with torch.inference_mode():
        expected = network(planes).clamp(0, 1).mul(255).round()[0].permute(1, 2, 0).numpy()
    assert np.abs(run(added.folders[0], image) - expected).max() <= 1
