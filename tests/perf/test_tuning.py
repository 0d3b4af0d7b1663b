from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import tune
from msgspec.structs import replace
from served import server
from served.analyzer import find_analyzer
from tuning.bench import bench
from tuning.setting import present
from tuning.tuner import Outcome, arguments, shape_of

from gateway.settings import CHECKOUT

MODEL = "nanodet-g-416"
TEXT = (CHECKOUT / "model_repository" / MODEL / "config.pbtxt").read_text()
BEFORE = present(server.read_config(TEXT))
FOUND = Outcome(
    model=MODEL,
    config="",
    best=replace(BEFORE, delay_us=500),
    before=BEFORE,
    rate=44.0,
    rate_before=40.0,
    noise=0.01,
    conditions={},
    races=[],
    measurements=[],
)


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / MODEL).mkdir()
    (tmp_path / MODEL / "config.pbtxt").write_text(TEXT)
    monkeypatch.setattr(server, "REPOSITORY", tmp_path)
    return tmp_path / MODEL


def test_the_best_is_written_with_its_evidence_beside_it(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tune.finish(FOUND, dry_run=False)
    text = (repository / "config.pbtxt").read_text()
    assert present(server.read_config(text)) == FOUND.best
    evidence = msgspec.json.decode((repository / "tuning.json").read_bytes(), type=Outcome)
    assert evidence == FOUND
    said = capsys.readouterr().out
    assert "44.00/s, +10.0% over 1 instances x 2 streams" in said
    assert "max_queue_delay_microseconds: 500" in said


def test_a_dry_run_writes_nothing(repository: Path) -> None:
    tune.finish(FOUND, dry_run=True)
    assert [path.name for path in repository.iterdir()] == ["config.pbtxt"]
    assert (repository / "config.pbtxt").read_text() == TEXT


def test_where_nothing_is_better_the_configuration_stays(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tune.finish(replace(FOUND, best=BEFORE), dry_run=False)
    assert (repository / "config.pbtxt").read_text() == TEXT
    assert "nothing beats the setting that stands" in capsys.readouterr().out


def test_what_a_model_is_tuned_with() -> None:
    assert arguments([MODEL]).concurrency == [4, 8]
    assert arguments([MODEL, "--limit-ms", "200"]).concurrency == [1, 2, 4, 8]
    assert shape_of(arguments([MODEL])) == (416, 416)
    assert shape_of(arguments(["realesrgan-x4plus"])) == (270, 480)
    assert shape_of(arguments([MODEL, "--shape", "256", "416"])) == (256, 416)
    with pytest.raises(ValueError, match=r"there is no .*nothing/config.pbtxt"):
        shape_of(arguments(["nothing"]))


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.skipif(find_analyzer() is None, reason="perf_analyzer is not here: just install-perf")
async def test_a_setting_is_loaded_and_measured_within_its_limit() -> None:
    program = find_analyzer()
    assert program is not None
    asked: dict[str, Any] = {"shape": (256, 416), "window_s": 0.5}
    wanted = replace(BEFORE, instances=2, streams=1, max_batch=4, delay_us=300)
    async with bench(MODEL, program, concurrency=[1, 2], limit_ms=0.0, **asked) as on:
        assert await on.rate(wanted) > 0
        assert present(await server.load(on.served.url, MODEL, on.config)) == BEFORE
        assert {found.setting for found in on.evidence} == {wanted}
        url = on.served.url
        async with bench(MODEL, program, concurrency=[1], limit_ms=1.0, triton=url, **asked) as two:
            assert await two.rate(wanted) == 0.0
            assert len(two.evidence) == 1
