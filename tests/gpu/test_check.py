"""What Triton's container asks before it starts: is each engine for this GPU?"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from build_engines import main
from engines import versions
from engines.errors import EngineError
from engines.gpu import Cuda
from gateway.settings import CHECKOUT
from tests.gpu import fake_tensorrt
from tests.gpu.conftest import CONFIG, Gpus, small_graph
from tests.gpu.fake_cuda import H200, L4, FakeCuda

BUILT = "small version 1 was built"


def check(repository: Path, *names: str) -> int:
    return main(["check", *names, "--repository", str(repository)])


@pytest.fixture
def built(repository: Path, gpus: Gpus) -> Path:
    """The repository with an engine for an H200."""
    gpus(H200)
    words = ["build", "--repository", str(repository), "--cache", str(repository.parent)]
    assert main(words) == 0
    return repository


def test_an_engine_that_was_built_here_may_be_served(
    built: Path, gpus: Gpus, capsys: pytest.CaptureFixture[str]
) -> None:
    gpus(H200, H200)
    assert check(built) == 0
    assert "1 models are for NVIDIA H200 (compute capability 9.0)" in capsys.readouterr().out
    (built / "small" / "1" / "model.onnx").unlink()  # a repository for serving alone
    assert check(built) == 0


def test_a_model_without_an_engine_is_refused(
    repository: Path, gpus: Gpus, capsys: pytest.CaptureFixture[str]
) -> None:
    gpus(H200)
    assert check(repository) == 1
    assert "small version 1 has no TensorRT engine: build it here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("gpu", "on NVIDIA H200 (compute capability 9.0), and GPU 1 here is NVIDIA L4"),
        ("onnx", "from an ONNX with SHA-256"),
        ("plan", "as the file with SHA-256"),
        ("shapes", "for the shapes {'image': [[1, 1, 1, 3]"),
        ("precision", "in fp16, and configs/tensorrt.pbtxt says fp32"),
        ("version", "of version 1, and lies in folder 2"),
    ],
)
def test_an_engine_of_something_else_is_refused_in_one_sentence(
    built: Path, gpus: Gpus, capsys: pytest.CaptureFixture[str], fault: str, reason: str
) -> None:
    folder = built / "small" / "1"
    config = built / "small" / "configs" / "tensorrt.pbtxt"
    if fault == "gpu":
        gpus(H200, L4)
    elif fault == "onnx":
        onnx.save(small_graph(bias=1), str(folder / "model.onnx"))
    elif fault == "plan":
        (folder / "model.plan").write_bytes(b"another")
    elif fault == "shapes":
        config.write_text(CONFIG.replace('"64"', '"128"'))
    elif fault == "precision":
        config.write_text(CONFIG.replace('"fp16"', '"fp32"'))
    else:
        folder.rename(folder.with_name("2"))
    capsys.readouterr()
    assert check(built) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert reason in line
    assert line.startswith(f"engines: {BUILT}".replace("1", "2" if fault == "version" else "1"))
    assert "build it here with `build_engines.py build small`" in line


def test_an_engine_of_another_tensorrt_is_refused(
    built: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = built / "small" / "1" / "engine.json"
    manifest.write_text(manifest.read_text().replace("10.9.0.34", "10.8.0.43"))
    assert check(built) == 1
    error = capsys.readouterr().err
    assert f"{BUILT} with TensorRT 10.8.0.43, and TensorRT 10.9.0.34 serves here" in error


def test_a_manifest_that_is_none_is_refused(
    built: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (built / "small" / "1" / "engine.json").write_text('{"gpu": "NVIDIA H200"}')
    assert check(built) == 1
    assert "engine.json is no engine's manifest" in capsys.readouterr().err


@pytest.mark.parametrize("part", ["bindings", "library"])
def test_another_tensorrt_than_the_one_written_down_is_refused(
    built: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], part: str
) -> None:
    if part == "bindings":
        monkeypatch.setattr(fake_tensorrt, "__version__", "10.8.0.43")
    else:
        monkeypatch.setattr(versions, "library_version", lambda: "10.8.0")
    assert check(built) == 1
    error = capsys.readouterr().err
    assert "10.8.0" in error
    assert "triton/versions.toml names 10.9.0.34" in error


def test_no_gpu_is_said() -> None:
    with pytest.raises(EngineError, match="shows no GPU"):
        Cuda(FakeCuda()).gpus()


def test_run_by_path_without_a_gpu_it_says_where_to_run() -> None:
    done = subprocess.run(
        [sys.executable, "scripts/build_engines.py", "check"],
        cwd=CHECKOUT,
        env={"PYTHONSAFEPATH": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("engines: ")
    assert "run this in the image of triton/Dockerfile" in done.stderr
