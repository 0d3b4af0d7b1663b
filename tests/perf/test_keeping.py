"""Rows are printed with their conditions, and kept where that is asked for."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import measure
import pytest

from gateway.settings import CHECKOUT


def test_a_row_is_kept_only_where_that_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(measure, "RESULTS", tmp_path / "results")
    with measure.keeping("shout", keep=False):
        measure.say("shout.one", per_s=1)
    assert not (tmp_path / "results").exists()
    for per_s in (2, 3):
        with measure.keeping("shout", keep=True):
            measure.say("shout.one", per_s=per_s)
    measure.say("shout.one", per_s=4)
    kept = (tmp_path / "results" / "shout.jsonl").read_text().splitlines()
    assert [json.loads(line)["per_s"] for line in kept] == [2, 3]
    assert kept == capsys.readouterr().out.splitlines()[1:3]


def test_a_limit_that_is_not_held_is_a_failed_run() -> None:
    measure.must(True, "at most 5 s")
    with pytest.raises(SystemExit, match=r"^not held: at most 5 s$"):
        measure.must(False, "at most 5 s")


def test_a_row_tells_on_what_it_was_measured(capsys: pytest.CaptureFixture[str]) -> None:
    measure.say("shout", command="just shout --key=...")
    row = json.loads(capsys.readouterr().out)
    assert {"device", "simd", "memory_gb", "load_before", "commit", "dirty", "date"} <= set(row)
    assert row["command"] == "just shout --key=...", "a row may know its command better"


def test_kept_lines_are_in_git() -> None:
    ignored = ["git", "-C", str(CHECKOUT), "check-ignore", "perf/results/endurance.jsonl"]
    assert subprocess.run(ignored, check=False, capture_output=True).returncode == 1
