"""MODEL/configs/tensorrt.pbtxt of every model, against its config.pbtxt."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from google.protobuf import text_format  # type: ignore[import-untyped]
from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelInstanceGroup

from engines.repository import Model
from gateway.settings import CHECKOUT
from gpu_configs import OWN, for_gpu, main
from tests.gpu.conftest import CONFIG

REPOSITORY = CHECKOUT / "model_repository"
MODELS = sorted(path.parent.name for path in REPOSITORY.glob("*/config.pbtxt"))
AGAIN = "run `just gpu-configs` and commit what it writes"


def on_a_cpu(name: str) -> ModelConfig:
    return text_format.Parse((REPOSITORY / name / "config.pbtxt").read_text(), ModelConfig())


def parameters(config: ModelConfig) -> dict[str, str]:
    return {key: value.string_value for key, value in config.parameters.items() if key not in OWN}


@pytest.mark.parametrize("name", MODELS)
def test_every_model_has_the_configuration_that_is_written_for_it(name: str) -> None:
    file = REPOSITORY / name / "configs" / "tensorrt.pbtxt"
    assert file.exists(), f"{name} has no configs/tensorrt.pbtxt: {AGAIN}"
    wanted = for_gpu((REPOSITORY / name / "config.pbtxt").read_text())
    differing = set(wanted.splitlines()) ^ set(file.read_text().splitlines())
    assert file.read_text() == wanted, f"{name}: {AGAIN}; lines that differ: {differing}"


@pytest.mark.parametrize("name", MODELS)
def test_tensors_priorities_and_parameters_are_those_of_the_cpu(name: str) -> None:
    gpu, cpu = Model(REPOSITORY / name).config, on_a_cpu(name)
    assert gpu.name == name
    assert gpu.version_policy == cpu.version_policy, f"{name}: {AGAIN}"
    assert list(gpu.input) == list(cpu.input), f"{name}: {AGAIN}"
    assert list(gpu.output) == list(cpu.output), f"{name}: {AGAIN}"
    assert parameters(gpu) == parameters(cpu), f"{name}: {AGAIN}"
    for key in ("priority_levels", "default_priority_level"):
        assert getattr(gpu.dynamic_batching, key) == getattr(cpu.dynamic_batching, key), key


@pytest.mark.parametrize("name", MODELS)
def test_an_engine_is_on_the_gpu_is_warmed_and_says_why_it_has_no_cuda_graphs(name: str) -> None:
    model = Model(REPOSITORY / name)
    group = model.config.instance_group[0]
    text = (REPOSITORY / name / "configs" / "tensorrt.pbtxt").read_text()
    if not model.is_engine:
        assert name in ("silero-vad", "moonshine-tiny-en")
        assert group.kind == ModelInstanceGroup.KIND_CPU
        assert "# On the CPU there too. " in text
        return
    assert group.kind == ModelInstanceGroup.KIND_GPU
    assert model.config.default_model_filename == "model.plan"
    assert model.config.model_warmup
    cuda = model.config.optimization.cuda
    assert cuda.graphs == bool(cuda.graph_spec)
    assert cuda.graphs or "# CUDA graphs are off: " in text


@pytest.mark.parametrize("name", MODELS)
def test_pictures_of_16_bits_are_enlarged_in_fp32(name: str) -> None:
    model = Model(REPOSITORY / name)
    if model.is_engine:
        fine = model.parameters.get("bits") == "16"
        assert model.parameters["precision"] == ("fp32" if fine else "fp16")


@pytest.mark.parametrize("name", MODELS)
def test_the_page_on_gpus_says_what_each_engine_is(name: str) -> None:
    model = Model(REPOSITORY / name)
    page = (CHECKOUT / "docs" / "gpu.md").read_text()
    if not model.is_engine:
        assert f"`{name}`" in page
        return
    config, own = model.config, model.parameters
    graphs = "tiles of 1080p and 4K" if config.optimization.cuda.graphs else "off"
    row = f"| `{name}` | {own['precision'].upper()} | {config.max_batch_size}"
    row += f" | {config.instance_group[0].count} | {own.get('max_tile_side', '')} | {graphs} |"
    assert row in page


def test_a_detector_for_one_picture_of_one_size_gets_just_that() -> None:
    text = (REPOSITORY / "nanodet-g-416" / "config.pbtxt").read_text()
    text = re.sub(r"max_batch_size: \d+", "max_batch_size: 1", text)
    text = text.replace("-1, -1, 3", "64, 96, 3")
    made = text_format.Parse(for_gpu(text), ModelConfig())
    assert made.max_batch_size == 1
    assert not made.dynamic_batching.preferred_batch_size
    assert [list(item.inputs["image"].dims) for item in made.model_warmup] == [[64, 96, 3]]


@pytest.mark.parametrize(
    "policy", ["specific { versions: [ 1, 3 ] }", "latest { num_versions: 2 }", "all { }"]
)
def test_the_versions_that_are_served_are_those_of_the_cpu(policy: str) -> None:
    text = (REPOSITORY / "nanodet-g-416" / "config.pbtxt").read_text()
    text = re.sub(r"version_policy.*\n", "", text) + f"version_policy {{ {policy} }}\n"
    cpu = text_format.Parse(text, ModelConfig())
    gpu = text_format.Parse(for_gpu(text), ModelConfig())
    assert gpu.version_policy == cpu.version_policy


def test_the_command_writes_one_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "nanodet-g-416"
    folder.mkdir()
    text = (REPOSITORY / folder.name / "config.pbtxt").read_text()
    (folder / "config.pbtxt").write_text(text.replace('"0.2"', '"0.4"'))
    assert main([folder.name, "--repository", str(tmp_path)]) == 0
    assert '"0.4"' in (folder / "configs" / "tensorrt.pbtxt").read_text()
    (folder / "config.pbtxt").write_text(CONFIG)
    assert main(["--repository", str(tmp_path)]) == 1
    assert "small is neither a detector nor an upscaler" in capsys.readouterr().err
