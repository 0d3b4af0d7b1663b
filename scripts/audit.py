"""Holds what Nereid runs on against known vulnerabilities: `just audit`.

Run by path, with pip-audit of the development environment. Ends with 1 for a finding alone: where
the data cannot be reached, a line says so and the status is 0. requirements/audit.toml may name
findings that do not concern us: [[ignore]] with `id`, `reason` and `until`, a date that ends it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
REQUIREMENTS = ROOT / "requirements" / "main.txt"
IGNORED = ROOT / "requirements" / "audit.toml"
DEADLINE_S = 120
TIMEOUT_S = 5


def main() -> int:
    """Audit, print what came of it, and return the exit status."""
    try:
        answer = run_pip_audit()
    except subprocess.TimeoutExpired:
        print(f"audit skipped: its data did not come within {DEADLINE_S} s")
        return 0
    try:
        report = json.loads(answer.stdout)
    except ValueError:
        lines = answer.stderr.strip().splitlines() or ["pip-audit said nothing"]
        print(f"audit skipped: its data cannot be reached ({lines[-1][:200]})")
        return 0
    today = datetime.now(UTC).date()
    lines, status = judged(report["dependencies"], ignored(IGNORED), today)
    print("\n".join(lines))
    return status


def run_pip_audit() -> subprocess.CompletedProcess[str]:
    """pip-audit's report on the locked requirements, by what they are and without installing."""
    tool = Path(sys.executable).with_name("pip-audit")
    return subprocess.run(
        [tool, "-r", REQUIREMENTS, "--disable-pip", "--require-hashes", "--format", "json",
         "--progress-spinner", "off", "--timeout", str(TIMEOUT_S)],
        capture_output=True, text=True, check=False, timeout=DEADLINE_S,
    )  # fmt: skip


def ignored(file: Path) -> dict[str, Mapping[str, Any]]:
    """What need not be mended, by the finding's id; nothing where there is no file."""
    if not file.is_file():
        return {}
    entries = tomllib.loads(file.read_text()).get("ignore", [])
    for entry in entries:
        if not entry.get("reason") or not isinstance(entry.get("until"), date):
            raise SystemExit(f"{file}: {entry.get('id')} needs a reason, and until = 2026-12-31")
    return {entry["id"]: entry for entry in entries}


def judged(
    dependencies: Sequence[Mapping[str, Any]], allowed: Mapping[str, Mapping[str, Any]], today: date
) -> tuple[list[str], int]:
    """Lines for people, and the exit status."""
    skipped = [one["name"] for one in dependencies if "skip_reason" in one]
    if len(skipped) == len(dependencies):
        return [f"audit skipped: its data cannot be reached for any of {len(skipped)} packages"], 0
    lines, status = [], 0
    for one in dependencies:
        for found in one.get("vulns", ()):
            names = {found["id"], *found.get("aliases", ())}
            entry = next((allowed[name] for name in names if name in allowed), None)
            what = f"{one['name']} {one['version']}: {found['id']}"
            if entry is not None and entry["until"] >= today:
                lines.append(f"{what}: ignored until {entry['until']}: {entry['reason']}")
                continue
            fixed = ", ".join(found.get("fix_versions", ())) or "no version yet"
            lines.append(f"{what}, mended in {fixed}")
            status = 1
    if skipped:
        lines.append(f"not audited, as there is no data on them: {', '.join(skipped)}")
    lines.append(f"audited {len(dependencies) - len(skipped)} packages of {REQUIREMENTS.name}")
    return lines, status


if __name__ == "__main__":
    sys.exit(main())
