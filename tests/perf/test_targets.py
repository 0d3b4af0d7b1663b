from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from rows import arguments
from served.targets import TARGETS, Targets, read_targets

from gateway.settings import CHECKOUT

FILE = read_targets()


def goals(name: str, gpus: int) -> dict[str, tuple[float | None, float | None]]:
    (load,) = [load for load in FILE.load if load.name == name]
    return {target.figure: (target.above, target.below) for target in load.for_gpus(gpus)}


@pytest.mark.parametrize("gpus", [1, 2, 4])
def test_the_targets_of_gpus_are_there_from_the_start(gpus: int) -> None:
    assert goals("photo-1080p", gpus) == {
        "median_s": (None, 5.0),
        "p95_s": (None, 5.0),
        "images_per_minute": (120.0 * gpus, None),
        "gpu_use": (0.75, 0.85),
        "worker_memory_gb": (None, 6.0),
        "error_share": (None, 0.005),
        "recovery_s": (None, 30.0),
        "scale_out_s": (None, 120.0),
    }
    assert goals("photo-4k", gpus) == {
        "median_s": (None, 25.0),
        "p95_s": (None, 25.0),
        "images_per_minute": (30.0 * gpus, None),
        "error_share": (None, 0.005),
    }


def test_served_detection_and_upscaling_are_held_against_the_bare_engine() -> None:
    ratios = {
        row.name: target.above
        for row in FILE.row
        for target in row.target
        if target.figure == "ratio"
    }
    assert ratios["detect"] == 0.85
    assert ratios["upscale"] == ratios["upscale-large"] == ratios["upscale-x4plus"] == 0.9


def test_every_row_names_a_model_of_the_repository_and_a_configuration_of_it() -> None:
    for row in FILE.row:
        folder = CHECKOUT / "model_repository" / row.model
        assert (folder / "config.pbtxt").is_file(), row.name
        assert (row.device == "gpu") == (row.config == "tensorrt")
        if row.config and (folder / "configs").is_dir():
            assert (folder / "configs" / f"{row.config}.pbtxt").is_file(), row.name


def test_a_row_is_every_combination_of_its_lists() -> None:
    row = next(row for row in FILE.row if row.name == "detect")
    points = list(row.points())
    assert len(points) == len(set(points)) == 2 * 1 * 2 * 4
    assert {(p.shape, p.concurrency, p.shared_memory) for p in points} >= {
        ((416, 416), 8, "system"),
        ((256, 416), 1, "none"),
    }


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("regression = 0.1", "regresion = 0.1", "unknown field `regresion`"),
        ("window_s = 6.0", "windows = 6.0", r"unknown field `windows` - at `\$.row"),
        ('figure = "ratio", above = 0.90', 'figure = "ratio"', "a target needs `above`"),
        ('figure = "gpu_use"', 'figure = "gpu"', "Invalid enum value 'gpu'"),
        ("concurrency = [1, 2, 4]\n", "concurrency = [0]\n", "`int` >= 1"),
        ('name = "upscale-large"', 'name = "upscale"', "the name 'upscale' stands twice"),
    ],
)
def test_a_slip_in_the_file_is_named(tmp_path: Path, old: str, new: str, says: str) -> None:
    text = TARGETS.read_text()
    assert old in text
    path = tmp_path / "targets.toml"
    path.write_text(text.replace(old, new))
    with pytest.raises(msgspec.ValidationError, match=says):
        read_targets(path)


def test_the_file_keeps_what_it_reads() -> None:
    assert msgspec.convert(msgspec.to_builtins(FILE), Targets) == FILE


def test_a_name_that_is_not_in_the_file_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert arguments(FILE, ["--only", "detect"]).only == ["detect"]
    with pytest.raises(SystemExit):
        arguments(FILE, ["--only", "nothing"])
    assert "invalid choice: 'nothing'" in capsys.readouterr().err
