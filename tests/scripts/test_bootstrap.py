from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BOOTSTRAP = ROOT / "scripts" / "bootstrap.py"


def test_an_old_python_can_read_the_bootstrap_far_enough_to_refuse() -> None:
    ast.parse(BOOTSTRAP.read_text(), feature_version=(3, 8))


@pytest.mark.parametrize("script", ["bootstrap.py", "setup.py", "perf_analyzer.py"])
def test_set_up_needs_the_standard_library_alone(script: str) -> None:
    tree = ast.parse((ROOT / "scripts" / script).read_text())
    imported = {
        name.name.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for name in node.names
    } | {
        (node.module or "").partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
    }
    assert imported <= sys.stdlib_module_names


def test_an_unreachable_registry_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    shutil.copy(BOOTSTRAP, tmp_path / "scripts")
    shutil.copytree(ROOT / "requirements", tmp_path / "requirements")
    done = subprocess.run(
        [sys.executable, "scripts/bootstrap.py", "demo"],
        cwd=tmp_path,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
            "PIP_RETRIES": "0",
            "PIP_NO_CACHE_DIR": "1",
            "PIP_CONFIG_FILE": os.devnull,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    last = done.stderr.splitlines()[-1]
    assert last.startswith("bootstrap: installing uv and just: the package registry cannot")
    assert len(done.stderr.splitlines()) == 2
    assert not (tmp_path / ".tools" / ".nereid-stamp").exists()
