"""Installs the environments named as arguments: main or dev (.venv), triton (.triton), perf.

Run by just: .tools/bin/python scripts/setup.py main triton. Standard library only; what is
complete is skipped, by a stamp that is written last, so what was interrupted is done again.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
UV = ROOT / ".tools" / "bin" / "uv"
STAMP = ".nereid-stamp"
# What pyvips, which has no wheel, is built with.
BUILD_CONSTRAINTS = ROOT / "requirements" / "build.txt"

# numpy below 2, which Triton's python backend needs, and ONNX Runtime have wheels for these alone.
TRITON_PYTHONS = ("3.12", "3.11")

NO_NETWORK = (
    r"dns error|error sending request|Connection refused|operation timed out|tcp connect"
    r"|Failed to fetch|Could not connect"
)
UNREACHABLE = (
    "the package registry cannot be reached: check the network (behind a proxy set HTTPS_PROXY,"
    " with a mirror set UV_DEFAULT_INDEX), then run it again"
)

# What uv says, and what that means to the person at the keyboard.
MEANINGS = (
    (r"No space left on device|os error 28", "the disk is full: free 6 GB, then run it again"),
    (
        r"invalid peer certificate",
        "the registry's certificate is not trusted: set SSL_CERT_FILE, then run it again",
    ),
    (NO_NETWORK, UNREACHABLE),
    (r"[Hh]ash mismatch", "a package is not the one that was reviewed (its hash differs)"),
    (r"no wheels? with a matching|doesn't have a wheel", "a package has no wheel for this Python"),
)


@dataclass(frozen=True)
class Environment:
    """A folder of packages, the requirements it holds, and whether Nereid itself goes in."""

    folder: Path
    requirements: Path
    with_project: bool
    platform: str = ""
    """Of the packages, where it is not this machine's."""

    def wanted(self) -> dict[str, str]:
        """What the stamp says when the environment is complete."""
        files = [self.requirements, BUILD_CONSTRAINTS]
        files += [ROOT / "pyproject.toml"] if self.with_project else []
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    def stamp(self) -> dict[str, str]:
        """What the stamp says; empty where there is none or where its Python is gone."""
        path = self.folder / STAMP
        if not (path.is_file() and (self.folder / "bin" / "python").exists()):
            return {}
        return dict(json.loads(path.read_text()))


ENVIRONMENTS = {
    "main": Environment(ROOT / ".venv", ROOT / "requirements" / "main.txt", with_project=True),
    "dev": Environment(ROOT / ".venv", ROOT / "requirements" / "dev.txt", with_project=True),
    "triton": Environment(
        ROOT / ".triton", ROOT / "requirements" / "triton.txt", with_project=False
    ),
    # A program for glibc 2.38, which scripts/perf_analyzer.py makes run where that is missing.
    "perf": Environment(
        ROOT / ".perf",
        ROOT / "requirements" / "perf.txt",
        with_project=False,
        platform="x86_64-manylinux_2_38",
    ),
}


def fail(message: str) -> SystemExit:
    """One line that says what and how to mend it."""
    return SystemExit(f"setup: {message}")


def uv(what: str, *arguments: str) -> None:
    """Run uv; when it fails, end with one line."""
    done = run_uv(*arguments)
    if done.returncode == 0:
        return
    for pattern, meaning in MEANINGS:
        if re.search(pattern, done.stderr):
            raise fail(f"{what}: {meaning}")
    sys.stderr.write(done.stderr)
    raise fail(f"{what} failed ({done.returncode}), see above")


def run_uv(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run uv with the user's own settings; what it installs of Python goes into the checkout."""
    environment = {"UV_PYTHON_INSTALL_DIR": str(ROOT / ".cache" / "python")} | os.environ
    return subprocess.run(
        [str(UV), *arguments], capture_output=True, text=True, check=False, env=environment
    )


def is_complete(name: str) -> bool:
    """Whether the environment holds what its requirements say; `dev` holds all of `main`."""
    stamp = ENVIRONMENTS[name].stamp()
    covering = ("main", "dev") if name == "main" else (name,)
    return any(stamp == ENVIRONMENTS[other].wanted() for other in covering)


def install(name: str) -> None:
    """Bring one environment to what its requirements say, and stamp it last."""
    environment = ENVIRONMENTS[name]
    folder, python = environment.folder, environment.folder / "bin" / "python"
    began = time.perf_counter()
    sys.stderr.write(f"Installing packages into {folder.name} ...\n")
    if environment.stamp():
        (folder / STAMP).unlink()
    else:  # new, or interrupted: nothing in it can be relied on
        make(name, folder)
    packages = ["--python", str(python), "--require-hashes", "--no-deps"]
    packages += ["--python-platform", environment.platform] if environment.platform else []
    source = ("-r", str(environment.requirements), "--build-constraints", str(BUILD_CONSTRAINTS))
    uv(f"installing {environment.requirements.name}", "pip", "install", *packages, *source)
    if environment.with_project:
        project = ["--python", str(python), "--no-deps", "--no-build-isolation", "--editable"]
        uv("installing Nereid itself", "pip", "install", *project, str(ROOT))
    (folder / STAMP).write_text(json.dumps(environment.wanted()))
    sys.stderr.write(f"{folder.name} is ready ({time.perf_counter() - began:.1f} s)\n")


def make(name: str, folder: Path) -> None:
    """Make an empty virtual environment with a Python that its packages have wheels for."""
    python = triton_python() if name == "triton" else base_python()
    uv(f"making {folder.name}", "venv", "--quiet", "--clear", "--python", python, str(folder))


def base_python() -> str:
    """The Python that .tools was made with."""
    version = ".".join(platform.python_version_tuple()[:2])
    return str(Path(sys.base_prefix) / "bin" / f"python{version}")


def triton_python() -> str:
    """A Python of TRITON_PYTHONS with its shared library, which Triton's backend links."""
    found = [run_uv("python", "find", "--system", version) for version in TRITON_PYTHONS]
    paths = [result.stdout.strip() for result in found if result.returncode == 0]
    for python in [base_python(), *paths]:
        if has_shared_library(python):
            return python
    sys.stderr.write("Installing Python 3.12 for Triton into .cache/python ...\n")
    installed = run_uv("python", "install", "--no-bin", "3.12")
    managed = run_uv("python", "find", "--managed-python", "3.12")
    if installed.returncode == 0 and managed.returncode == 0:
        return managed.stdout.strip()
    raise fail(
        "Triton needs Python 3.11 or 3.12 with its shared library, and none is here nor could"
        " one be downloaded: install it (Debian 12: apt install libpython3.11, Ubuntu 24.04:"
        " libpython3.12t64), then run it again"
    )


def has_shared_library(python: str) -> bool:
    """Whether `python` is of TRITON_PYTHONS and its libpython can be loaded."""
    code = (
        "import ctypes, os, sys, sysconfig as s; v = '%d.%d' % sys.version_info[:2];"
        f"assert v in {TRITON_PYTHONS!r}; name = 'libpython' + v + '.so.1.0';"
        "path = os.path.join(s.get_config_var('LIBDIR'), name);"
        "ctypes.CDLL(path if os.path.exists(path) else name)"
    )
    try:
        done = subprocess.run([python, "-I", "-c", code], capture_output=True, check=False)
    except OSError:
        return False
    return done.returncode == 0


def main(names: Sequence[str]) -> None:
    """Install what is missing of `names`, one process at a time."""
    if all(is_complete(name) for name in names):
        return
    with (ROOT / ".cache" / "setup.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for name in names:
            if not is_complete(name):
                install(name)


if __name__ == "__main__":
    try:
        (ROOT / ".cache").mkdir(exist_ok=True)
        main(sys.argv[1:])
    except OSError as error:
        free_gb = shutil.disk_usage(ROOT).free / 1e9
        raise fail(f"{error.strerror}: {error.filename} ({free_gb:.1f} GB free)") from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
