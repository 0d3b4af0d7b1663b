from __future__ import annotations

from msgspec.structs import replace
from served import verdict
from served.targets import Load, LoadTarget, Row, RowTarget

from tests.perf.examples import CPU, GPU, POINT, beside_bare

ROW = Row(
    name="detect",
    model="nanodet-g-416",
    device="cpu",
    shapes=((416, 416),),
    concurrency=(2, 4),
    target=(
        RowTarget(figure="ratio", above=0.85),
        RowTarget(figure="p95_ratio", below=2.0, concurrency=4),
    ),
)
ON_GPU = replace(ROW, device="gpu")
LOAD = Load(
    name="photo",
    model="realesrgan-x4plus",
    width=1920,
    height=1080,
    scale=2,
    clients_per_gpu=8,
    photos_per_gpu=240,
    target=(
        LoadTarget(figure="gpu_use", above=0.75, below=0.85, gpus=1),
        LoadTarget(figure="scale_out_s", below=120.0, gpus=1),
        LoadTarget(figure="images_per_minute", above=240.0, gpus=2),
    ),
)
AT_TWO = replace(POINT, concurrency=2)


def outcomes(verdicts: list[verdict.Verdict]) -> list[str]:
    return [one.outcome for one in verdicts]


def test_a_rate_is_met_by_the_best_point() -> None:
    lines = [beside_bare(0.7, point=AT_TWO), beside_bare(0.9)]
    assert outcomes(verdict.of_row(ROW, lines)) == ["met", "met"]


def test_the_limit_itself_is_missed() -> None:
    assert outcomes(verdict.of_row(ROW, [beside_bare(0.85)])) == ["missed", "met"]


def test_a_latency_holds_for_every_point_that_its_target_names() -> None:
    large = replace(POINT, shared_memory="system")
    lines = [
        beside_bare(0.9, p95_ratio=1.5),
        beside_bare(0.9, p95_ratio=2.5, point=large),
        beside_bare(0.9, p95_ratio=9.0, point=AT_TWO),
    ]
    _, latency = verdict.of_row(ROW, lines)
    assert latency.sentence() == (
        "missed: detect: p95_ratio at 4 at once < 2: 2.5 at 416 x 416 over shared memory, 4 at once"
    )


def test_what_no_point_tells_is_not_measurable() -> None:
    assert outcomes(verdict.of_row(ROW, [beside_bare(0.9, point=AT_TWO)])) == [
        "met",
        "not measurable",
    ]


def test_a_row_that_cannot_be_measured_says_why_for_each_of_its_targets() -> None:
    why = verdict.why_not_row(ROW, CPU, analyzer=False, triton="")
    sentences = [one.sentence() for one in verdict.row_not_measured(ROW, why)]
    assert sentences[0] == ("not measurable: detect: ratio > 0.85: perf_analyzer is not installed")
    assert len(sentences) == 2


def test_rows_of_gpus_need_one_and_a_triton_on_it() -> None:
    assert verdict.why_not_row(ROW, CPU, analyzer=True, triton="") == ""
    assert "no NVIDIA GPU" in verdict.why_not_row(ON_GPU, CPU, analyzer=True, triton="t:8001")
    assert "--triton" in verdict.why_not_row(ON_GPU, GPU, analyzer=True, triton="")
    assert verdict.why_not_row(ON_GPU, GPU, analyzer=True, triton="t:8001") == ""


def test_a_load_is_for_as_many_gpus_as_its_target_says() -> None:
    assert "no NVIDIA GPU" in verdict.why_not_load(1, CPU, "t:8001")
    assert verdict.why_not_load(2, GPU, "t:8001") == "it is for 2 GPUs, and this machine has 1"
    assert "--triton" in verdict.why_not_load(1, GPU, "")
    assert verdict.why_not_load(1, GPU, "t:8001") == ""


def test_a_load_is_met_missed_or_not_measurable_figure_by_figure() -> None:
    found = {"gpu_use": 0.95}
    use, scaling = verdict.of_load(LOAD, 1, found, {"scale_out_s": "it needs a cluster"})
    assert use.sentence() == "missed: photo: gpu_use on 1 GPU 0.75 to 0.85: 0.95"
    assert scaling.sentence().endswith("scale_out_s on 1 GPU < 120: it needs a cluster")
    (per_minute,) = verdict.of_load(LOAD, 2, {"images_per_minute": 250.0}, {})
    assert per_minute.outcome == "met"
    (unknown,) = verdict.load_not_measured(LOAD, 2, verdict.NO_GPU)
    assert unknown.sentence().endswith("on 2 GPUs > 240: there is no NVIDIA GPU here")
