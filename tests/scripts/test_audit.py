"""What `just audit` makes of pip-audit's report."""

from __future__ import annotations

import subprocess
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from gateway.settings import CHECKOUT
from tests.models.scripts import script

AUDIT = script("scripts/audit.py")
TODAY = date(2026, 11, 29)
FOUND = {
    "name": "a", "version": "1",
    "vulns": [{"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["2"]}],
}  # fmt: skip
CLEAN = {"name": "b", "version": "1", "vulns": []}
UNKNOWN = {"name": "c", "skip_reason": "not found"}


@pytest.mark.parametrize(
    ("dependencies", "allowed", "status", "words"),
    [
        ([CLEAN], {}, 0, "audited 1 packages"),
        ([FOUND, CLEAN], {}, 1, "a 1: PYSEC-1, mended in 2"),
        ([CLEAN, UNKNOWN], {}, 0, "not audited, as there is no data on them: c"),
        ([UNKNOWN], {}, 0, "audit skipped"),
        ([FOUND], {"CVE-1": {"until": TODAY, "reason": "unused"}}, 0, "ignored until 2026-11-29"),
        ([FOUND], {"CVE-1": {"until": date(2026, 11, 28), "reason": "unused"}}, 1, "mended in 2"),
        ([FOUND], {"CVE-2": {"until": TODAY, "reason": "unused"}}, 1, "mended in 2"),
    ],
)
def test_only_a_finding_that_nobody_has_looked_at_fails(
    dependencies: list[Any], allowed: dict[str, Any], status: int, words: str
) -> None:
    lines, given = AUDIT.judged(dependencies, allowed, TODAY)
    assert given == status
    assert words in "\n".join(lines)


@pytest.mark.parametrize(
    ("said", "words"), [("", "said nothing"), ("ConnectionError: no route", "no route")]
)
def test_data_that_cannot_be_reached_is_told_and_is_no_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], said: str, words: str
) -> None:
    answer = subprocess.CompletedProcess([], 1, stdout="", stderr=said)
    monkeypatch.setattr(AUDIT, "run_pip_audit", lambda: answer)
    assert AUDIT.main() == 0
    assert "audit skipped" in (told := capsys.readouterr().out)
    assert words in told


def test_an_ignored_finding_needs_a_reason_and_an_end(tmp_path: Path) -> None:
    file = tmp_path / "audit.toml"
    assert AUDIT.ignored(file) == {}
    file.write_text('[[ignore]]\nid = "CVE-1"\nreason = "unused"\nuntil = 2026-12-31\n')
    assert AUDIT.ignored(file)["CVE-1"]["until"] == date(2026, 12, 31)
    for entry in ('reason = "unused"', "until = 2026-12-31"):
        file.write_text(f'[[ignore]]\nid = "CVE-1"\n{entry}\n')
        with pytest.raises(SystemExit, match="CVE-1 needs a reason"):
            AUDIT.ignored(file)


def test_ci_audits_after_it_has_looked_at_style() -> None:
    steps = (CHECKOUT / ".ci" / "run").read_text()
    assert steps.index("bootstrap.py lint") < steps.index("bootstrap.py audit")
    assert "\naudit:" in (CHECKOUT / "justfile").read_text()
