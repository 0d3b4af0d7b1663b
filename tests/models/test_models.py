"""The model repository: each config agrees with its ONNX, and the ONNX with its source."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from google.protobuf import text_format  # type: ignore[import-untyped]
from tritonclient.grpc.model_config_pb2 import ModelConfig

from functions.media.upscale.tiles import plan

ROOT = Path(__file__).parents[2]
REPOSITORY = ROOT / "model_repository"
MODELS = sorted(file.parent for file in REPOSITORY.glob("realesr*/config.pbtxt"))
TYPES = {
    onnx.TensorProto.UINT8: "TYPE_UINT8",
    onnx.TensorProto.FLOAT: "TYPE_FP32",
}


def script(path: str) -> ModuleType:
    """A script as a module; scripts are run by path and no package holds them."""
    name = f"script_{Path(path).stem}"
    spec = importlib.util.spec_from_file_location(name, ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


BUILD = script("scripts/build_models.py")
CONVERTER = script("scripts/models/ncnn_to_onnx.py")


def config(model: Path) -> ModelConfig:
    return text_format.Parse((model / "config.pbtxt").read_text(), ModelConfig())


def ports(values: object, kinds: Mapping[Any, str]) -> list[tuple[str, str, list[int]]]:
    """Name, Triton type and dimensions without the batch; -1 for those that vary."""
    found = []
    for value in values:  # type: ignore[attr-defined]
        tensor = value.type.tensor_type
        dims = [dim.dim_value or -1 for dim in tensor.shape.dim]
        assert dims[0] == -1, "the batch must vary"
        found.append((value.name, kinds[tensor.elem_type], dims[1:]))
    return found


def test_the_checksums_list_exactly_the_models() -> None:
    found = {file.parent.name for file in REPOSITORY.glob("*/config.pbtxt")}
    assert {name.split("/")[0] for name in BUILD.read_sums()} <= found
    assert set(BUILD.read_sums()) >= {f"{model.name}/1/model.onnx" for model in MODELS}
    assert (len(MODELS), len(BUILD.read_sums())) == (10, 15)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_a_config_agrees_with_its_onnx(model: Path) -> None:
    given = config(model)
    graph = onnx.load(str(model / "1" / "model.onnx")).graph
    names = ModelConfig.DESCRIPTOR.fields_by_name["input"].message_type.fields_by_name
    kinds = names["data_type"].enum_type.values_by_number

    def declared(tensors: object) -> list[tuple[str, str, list[int]]]:
        return [(t.name, kinds[t.data_type].name, list(t.dims)) for t in tensors]  # type: ignore[attr-defined]

    assert given.name == model.name
    assert declared(given.input) == ports(graph.input, TYPES)
    assert declared(given.output) == ports(graph.output, TYPES)
    assert (given.dynamic_batching.priority_levels, given.default_model_filename) == (
        3,
        "model.onnx",
    )
    assert "BSD 3-Clause" in (model / "LICENSE").read_text()


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_the_parameters_say_the_scale_and_the_depth(model: Path) -> None:
    parameters = {key: value.string_value for key, value in config(model).parameters.items()}
    session = onnxruntime.InferenceSession(str(model / "1" / "model.onnx"))
    kind = np.uint8 if parameters["bits"] == "8" else np.float32
    top = 2 ** int(parameters["bits"]) - 1
    image = np.random.default_rng(0).integers(0, top, (2, 9, 5, 3)).astype(kind)
    (upscaled,) = session.run(None, {"image": image})
    scale = int(parameters["scale"])
    assert (upscaled.dtype, upscaled.shape) == (kind, (2, 9 * scale, 5 * scale, 3))
    assert (upscaled == np.round(upscaled)).all()
    assert upscaled.min() >= 0
    assert upscaled.max() <= top


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_halo_and_padding_waste_at_most_a_tenth_at_1080p(model: Path) -> None:
    parameters = {
        key: int(value.string_value)
        for key, value in config(model).parameters.items()
        if value.string_value.isdigit()
    }
    for height, width in ((1080, 1920), (1920, 1080)):
        tiles = plan(
            height,
            width,
            halo=parameters["halo"],
            max_tile_pixels=parameters["max_tile_pixels"],
            parallel=parameters["streams"],
        )
        assert tiles.waste <= 0.1


@pytest.mark.parametrize("height", [1, 2, 7, 8, 9, 40])
def test_the_tail_in_bands_gives_the_same_pixels_as_in_one_piece(
    height: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "realesrgan-x4plus-anime"
    folder = BUILD.fetch_weights()
    files = (folder / f"{name}.param", folder / f"{name}.bin")
    monkeypatch.setattr(CONVERTER, "full_size_tail", lambda _layers: [])
    plain = CONVERTER.translate(name, 4, 8, *files).SerializeToString()
    image = np.random.default_rng(height).integers(0, 256, (1, height, 12, 3)).astype(np.uint8)
    built = (REPOSITORY / name / "1" / "model.onnx").read_bytes()
    one, bands = (
        onnxruntime.InferenceSession(model).run(None, {"image": image})[0]
        for model in (plain, built)
    )
    assert (one == bands).all()


def test_a_build_gives_the_committed_bytes(tmp_path: Path) -> None:
    name = "realesr-animevideov3-x2"
    folder = BUILD.fetch_weights()
    model = CONVERTER.translate(name, 2, 8, folder / f"{name}.param", folder / f"{name}.bin")
    file = tmp_path / "model.onnx"
    file.write_bytes(model.SerializeToString(deterministic=True))
    assert BUILD.sha256(file) == BUILD.read_sums()[f"{name}/1/model.onnx"]


def test_a_file_that_was_changed_is_noticed_and_built_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = BUILD.model_files()
    monkeypatch.setattr(BUILD, "STAMP", tmp_path / "stamp.json")
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"model")
    wanted = BUILD.measure(tmp_path)
    BUILD.write_stamp(tmp_path, wanted)
    assert BUILD.is_stamped(tmp_path, wanted)
    (tmp_path / names[0]).write_bytes(b"other")
    assert not BUILD.is_stamped(tmp_path, wanted)
    assert BUILD.differing(tmp_path, wanted) == [names[0]]
    with pytest.raises(BUILD.BuildError, match="SHA256SUMS"):
        BUILD.refuse_differing(tmp_path, wanted)
