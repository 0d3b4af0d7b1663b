"""The load that GPUs are measured with, on this machine and with photos that it can do."""

from __future__ import annotations

from pathlib import Path

import pytest
from served.targets import Load, LoadTarget
from served.verdict import of_load
from served.whole import measure_load

SMALL = Load(
    name="small",
    model="realesr-animevideov3-x2",
    width=64,
    height=48,
    scale=2,
    clients_per_gpu=2,
    photos_per_gpu=4,
    target=(
        LoadTarget(figure="error_share", below=0.005, gpus=1),
        LoadTarget(figure="gpu_use", above=0.75, below=0.85, gpus=1),
        LoadTarget(figure="scale_out_s", below=120.0, gpus=1),
    ),
)


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_a_load_says_what_it_found_and_why_the_rest_is_missing(tmp_path: Path) -> None:
    line = await measure_load(SMALL, 1, tmp_path, triton="", config="")
    assert set(line.figures) >= {
        "median_s",
        "p95_s",
        "images_per_minute",
        "worker_memory_gb",
        "recovery_s",
    }
    assert line.figures["error_share"] == 0
    assert line.triton.startswith("2.")
    verdicts = of_load(SMALL, 1, line.figures, line.missing)
    assert [one.outcome for one in verdicts] == ["met", "not measurable", "not measurable"]
    assert "nvidia-smi" in verdicts[1].why
    assert "cluster" in verdicts[2].why
