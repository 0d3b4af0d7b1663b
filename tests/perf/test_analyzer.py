from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace
from served import analyzer, pictures
from served.analyzer import AnalyzerError, Length, Served, analyze, command, parse_report
from served.lines import read_lines
from served.machine import machine
from served.measuring import measure_row
from served.targets import Point, read_targets

from gateway.settings import CHECKOUT

REPORT = (CHECKOUT / "tests" / "data" / "perf_analyzer" / "detect-4-at-once.csv").read_text()
POINT = Point(shape=(416, 416), batch=2, shared_memory="system", concurrency=4)
SERVED = Served("127.0.0.1:1", "nanodet-g-416", Path("data.json"), 10_000)


def test_a_report_is_read() -> None:
    found = parse_report(REPORT)
    assert found.throughput == 11.4076
    assert (found.p50_ms, found.p90_ms, found.p95_ms, found.p99_ms) == (
        338.412,
        475.001,
        527.12,
        552.874,
    )
    assert (found.mean_ms, found.queue_ms, found.compute_ms) == (341.925, 78.258, 153.349)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "0 rows"),
        (REPORT.splitlines()[0], "0 rows"),
        (REPORT + REPORT.splitlines()[1], "2 rows"),
        (REPORT.replace("p95 latency", "p94 latency"), "lacks 'p95 latency'"),
    ],
)
def test_a_report_of_another_kind_is_refused(text: str, says: str) -> None:
    with pytest.raises(AnalyzerError, match=says):
        parse_report(text)


def test_the_command_asks_for_the_point() -> None:
    line = shlex.join(command(Path("pa"), SERVED, POINT, Length(2.0), Path("report.csv")))
    assert "-m nanodet-g-416 -u 127.0.0.1:1 -i grpc -b 2 --concurrency-range 4" in line
    assert "--shared-memory=system --output-shared-memory-size=20000" in line
    assert "-p 2000" in line
    plain = command(
        Path("pa"), SERVED, replace(POINT, shared_memory="none"), Length(2.0, 60), Path("r")
    )
    assert not any("shared-memory" in word for word in plain)
    assert "--request-count 60" in shlex.join(plain)
    assert "-p" not in plain


async def test_a_failure_is_told_in_its_own_words(tmp_path: Path) -> None:
    program = tmp_path / "perf_analyzer"
    program.write_text("#!/bin/sh\necho failed to get model metadata\nexit 99\n")
    program.chmod(0o755)
    with pytest.raises(AnalyzerError, match="failed to get model metadata"):
        await analyze(program, SERVED, POINT, Length(1.0))


def test_an_environments_own_script_is_not_taken_for_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(analyzer, "INSTALLED", tmp_path / "absent")
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    assert analyzer.find_analyzer() is None
    (tmp_path / "perf_analyzer").write_text("#!/bin/sh\n")
    (tmp_path / "perf_analyzer").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert analyzer.find_analyzer() == tmp_path / "perf_analyzer"


def test_pictures_fill_the_shape_and_differ() -> None:
    found = pictures.pictures(256, 416)
    assert len(found) == 3
    assert {picture.shape for picture in found} == {(256, 416, 3)}
    assert len({picture.tobytes() for picture in found}) == 3


def test_this_machine_is_named() -> None:
    assert machine().cores > 0
    assert str(machine().cores) in machine().name


def test_the_accepted_lines_of_the_repository_are_readable() -> None:
    assert isinstance(read_lines(CHECKOUT / "perf" / "results" / "accepted.jsonl"), list)


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.skipif(
    analyzer.find_analyzer() is None, reason="perf_analyzer is not here: just install-perf"
)
async def test_a_row_is_measured_beside_the_bare_engine(tmp_path: Path) -> None:
    (row,) = [row for row in read_targets().row if row.name == "detect"]
    row = replace(row, shapes=((256, 416),), concurrency=(2,), window_s=1.0)
    program = analyzer.find_analyzer()
    assert program is not None
    said: list[str] = []
    lines = await measure_row(row, program, runs=1, triton="", scratch=tmp_path, say=said.append)
    assert [line.point.shared_memory for line in lines] == ["none", "system"]
    for line in lines:
        assert line.triton.startswith("2.")
        assert line.throughput.median > 0
        assert line.bare is not None
        assert line.ratio is not None
        assert line.ratio.median > 0
        assert line.core_time.triton_ms > 0
    assert len(said) == 2
