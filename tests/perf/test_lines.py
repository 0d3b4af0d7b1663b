from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace
from served.chart import draw
from served.lines import append, read_lines, regressions
from served.targets import read_targets

from tests.perf.examples import CPU, GPU, LINE, POINT, beside_bare, load_line, measured, same


def test_a_line_is_read_as_it_was_written_and_earlier_ones_stay(tmp_path: Path) -> None:
    path = tmp_path / "results" / "measured.jsonl"
    assert read_lines(path) == []
    append(path, [LINE])
    append(path, [beside_bare(0.9)])
    assert read_lines(path) == [LINE, beside_bare(0.9)]
    assert len(path.read_text().splitlines()) == 2


def test_a_first_measurement_is_no_regression() -> None:
    assert regressions(beside_bare(0.5), [], 0.1) == []


@pytest.mark.parametrize(("ratio", "worse"), [(0.82, False), (0.80, True), (1.5, False)])
def test_a_ratio_more_than_a_tenth_below_the_accepted_one_is_a_regression(
    *, ratio: float, worse: bool
) -> None:
    assert bool(regressions(beside_bare(ratio), [beside_bare(0.9)], 0.1)) == worse


def test_the_last_accepted_line_of_the_same_conditions_counts() -> None:
    accepted = [
        beside_bare(0.5),
        beside_bare(0.95),
        beside_bare(0.3, machine=replace(CPU, cores=4)),
        beside_bare(0.3, point=replace(POINT, concurrency=8)),
        beside_bare(0.3, row="upscale"),
    ]
    assert regressions(beside_bare(0.8), accepted, 0.1)
    assert not regressions(beside_bare(0.9), accepted, 0.1)


def test_a_slower_machine_is_no_regression_where_the_bare_engine_is_as_slow() -> None:
    slow = beside_bare(0.9, throughput=same(10.0), measured=measured(10.0, 400.0))
    assert regressions(slow, [beside_bare(0.9)], 0.1) == []


def test_on_a_gpu_rate_and_latency_are_compared_as_they_are() -> None:
    before = replace(LINE, machine=GPU)
    slow = replace(before, throughput=same(30.0), measured=measured(30.0, 150.0))
    rate, latency = regressions(slow, [before], 0.1)
    assert "throughput is 30 and was 40, 25% worse (limit 10%)" in rate
    assert "p95_ms is 150 and was 100, 50% worse" in latency


def test_a_load_is_compared_by_its_times_and_its_rate(tmp_path: Path) -> None:
    before = load_line(images_per_minute=130.0, p95_s=4.0, gpu_use=0.8)
    append(tmp_path / "lines.jsonl", [LINE, before])
    accepted = read_lines(tmp_path / "lines.jsonl")
    assert accepted == [LINE, before]
    slow = load_line(images_per_minute=100.0, p95_s=4.1, gpu_use=0.1)
    (sentence,) = regressions(slow, accepted, 0.1)
    assert sentence.startswith("photo-1080p on 1 GPU: images_per_minute is 100 and was 130, 23%")
    assert regressions(replace(slow, gpus=2), accepted, 0.1) == []


def test_the_sentence_says_where_what_has_changed_and_the_way_out() -> None:
    now = beside_bare(0.5, commit="1234567", config_hash="ba9876543210")
    (sentence,) = regressions(now, [beside_bare(0.9)], 0.1)
    assert sentence.startswith("detect, 416 x 416, 4 at once: ratio is 0.5 and was 0.9, 44% worse")
    assert "config_hash 0123456789ab -> ba9876543210, commit abcdef0 -> 1234567" in sentence
    assert "--accept" in sentence


def test_the_picture_is_drawn_with_and_without_a_bare_engine(tmp_path: Path) -> None:
    rows = {row.name: row for row in read_targets().row}
    several = [
        beside_bare(0.9, point=replace(POINT, concurrency=n, shape=shape))
        for n in (1, 2)
        for shape in ((416, 416), (256, 416))
    ]
    for lines, row in ((several, rows["detect"]), ([LINE], rows["detect-gpu"])):
        drawn = draw(row, lines, tmp_path / f"{row.name}.png")
        assert drawn.read_bytes().startswith(b"\x89PNG")
