"""Makes .perf/perf_analyzer, a launcher of the program that scripts/setup.py put into .perf.

perf_analyzer wants glibc 2.38. Where the machine's is older, it runs under the loader and the six
libraries of the next release of the same distribution (Debian 13, Ubuntu 24.04), which apt fetches
from the machine's own mirror and checks by signature; nothing of the machine's apt or libraries is
touched, and no root is needed. Standard library only.
"""

from __future__ import annotations

import fcntl
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / ".perf"
LAUNCHER = FOLDER / "perf_analyzer"
SOURCES = Path("/etc/apt")

WANTED_GLIBC = (2, 38)
NEWER_SUITES = {"debian": "trixie", "ubuntu": "noble"}
PACKAGES = ("libc6", "libstdc++6", "libgcc-s1", "libssl3t64", "zlib1g", "libzstd1")
LIBRARIES = Path("usr/lib/x86_64-linux-gnu")

WAY_OUT = "use Debian 13 or Ubuntu 24.04, or put a perf_analyzer of your own on PATH"

# What apt says, and what that means to the person at the keyboard.
MEANINGS = (
    (r"No space left", "the disk is full: free 100 MB, then run it again"),
    (r"NO_PUBKEY|not signed", "the mirror's newer release is signed by a key unknown here"),
    (r"Could not resolve|Could not connect|Connection|timed out", "apt's mirror is unreachable"),
    (r"404|does not have a Release file", "apt's mirror lacks the newer release"),
)


@dataclass(frozen=True)
class Source:
    """A package archive: where it is, and the key that signs it (empty: any that apt trusts)."""

    uri: str
    signed_by: str = ""

    def line(self, suite: str) -> str:
        """This archive's line of sources.list for another suite."""
        signed = f" signed-by={self.signed_by}" if self.signed_by else ""
        return f"deb [arch=amd64{signed}] {self.uri} {suite} main\n"


def fail(message: str) -> SystemExit:
    """One line that says what and how to mend it."""
    return SystemExit(f"perf_analyzer: {message}")


def own_sources(folder: Path, suite: str) -> Iterator[Source]:
    """The archives of `suite` that apt's `folder` names, in both forms of its files."""
    for path in [folder / "sources.list", *sorted((folder / "sources.list.d").glob("*"))]:
        if path.suffix == ".list" and path.is_file():
            yield from _of_lines(path.read_text(), suite)
        elif path.suffix == ".sources" and path.is_file():
            yield from _of_stanzas(path.read_text(), suite)


def _of_lines(text: str, suite: str) -> Iterator[Source]:
    for line in text.splitlines():
        found = re.match(r"deb\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)\s+(.*)", line)
        if found and found[3] == suite and "main" in found[4].split():
            options = dict(part.split("=", 1) for part in (found[1] or "").split() if "=" in part)
            yield Source(found[2], options.get("signed-by", ""))


def _of_stanzas(text: str, suite: str) -> Iterator[Source]:
    for stanza in re.split(r"\n\s*\n", text):
        fields = {
            name.strip().lower(): value.strip()
            for name, colon, value in (line.partition(":") for line in stanza.splitlines())
            if colon and not name.startswith(("#", " "))
        }
        wanted = ("types", "deb"), ("suites", suite), ("components", "main")
        if fields.get("enabled", "yes") != "no" and all(
            value in fields.get(name, "").split() for name, value in wanted
        ):
            for uri in fields.get("uris", "").split():
                yield Source(uri, fields.get("signed-by", ""))


def fetch_libraries(folder: Path) -> None:
    """Unpack PACKAGES of the newer release into `folder`."""
    release = platform.freedesktop_os_release()
    newer = NEWER_SUITES.get(release.get("ID", ""))
    if newer is None or shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        raise fail(f"it needs glibc 2.38 and {_glibc_name()} is here: {WAY_OUT}")
    sources = list(own_sources(SOURCES, release.get("VERSION_CODENAME", "")))
    if not sources:
        raise fail(f"{SOURCES} names no archive of {release.get('VERSION_CODENAME')}: {WAY_OUT}")
    work = folder.with_name("apt")
    shutil.rmtree(work, ignore_errors=True)
    for name in ("lists/partial", "cache/archives/partial", "none", "packages"):
        (work / name).mkdir(parents=True)
    (work / "sources.list").write_text(sources[0].line(newer))
    (work / "status").touch()
    apt = ("apt-get", "-qq", *_options(work))
    sys.stderr.write(f"Fetching the C library of {newer} into {folder.parent.name} ...\n")
    _run("reading the newer release", [*apt, "update"], work)
    _run("fetching its C library", [*apt, "download", *PACKAGES], work / "packages")
    shutil.rmtree(folder, ignore_errors=True)
    for package in (work / "packages").glob("*.deb"):
        _run(f"unpacking {package.name}", ["dpkg", "-x", str(package), str(folder)], work)
    shutil.rmtree(work)


def _options(work: Path) -> list[str]:
    """An apt that keeps all it writes in `work`, and the machine's proxies, keys and passwords."""
    settings = {
        "Dir::Etc::sourcelist": work / "sources.list",
        "Dir::Etc::sourceparts": work / "none",
        "Dir::Etc::preferences": work / "none" / "preferences",
        "Dir::Etc::preferencesparts": work / "none",
        "Dir::State": work,
        "Dir::State::status": work / "status",
        "Dir::Cache": work / "cache",
        "APT::Architecture": "amd64",
        "APT::Architectures": "amd64",
        "APT::Sandbox::User": "root",  # only root could change to another, who may not write here
        "Acquire::Languages": "none",
        "Acquire::Retries": "1",
    }
    return [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]


def _run(what: str, command: Sequence[str], folder: Path) -> None:
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=folder,
        env=os.environ | {"LC_ALL": "C"},
    )  # fmt: skip
    said = done.stdout + done.stderr
    if done.returncode == 0 and not re.search(r"^(W: Failed to fetch|E:)", said, re.MULTILINE):
        return
    for pattern, meaning in MEANINGS:
        if re.search(pattern, said):
            raise fail(f"{what}: {meaning}; {WAY_OUT}")
    sys.stderr.write(said)
    raise fail(f"{what} failed ({done.returncode}), see above")


def _glibc_name() -> str:
    return os.confstr("CS_GNU_LIBC_VERSION") or "another C library"


def is_new_enough(glibc: str) -> bool:
    """Whether the program runs on this glibc by itself."""
    found = re.fullmatch(r"glibc (\d+)\.(\d+).*", glibc)
    return found is not None and (int(found[1]), int(found[2])) >= WANTED_GLIBC


def launcher(program: Path, libraries: Path | None) -> str:
    """A shell script that becomes the program, under the loader of `libraries` if there are any."""
    words = [str(program)]
    if libraries is not None:
        found = libraries / LIBRARIES
        words = [str(found / "ld-linux-x86-64.so.2"), "--library-path", str(found), *words]
    return f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n'


def main() -> None:
    """Make the launcher, and prove that it runs. Skipped where it runs already."""
    programs = sorted(FOLDER.glob("lib/python3.*/site-packages/perf_analyzer/bin/perf_analyzer"))
    if not programs:
        raise fail("it is not in .perf: run `just install-perf`")
    libraries = None if is_new_enough(_glibc_name()) else FOLDER / "libraries"
    text = launcher(programs[0], libraries)
    if LAUNCHER.is_file() and LAUNCHER.read_text() == text and _runs():
        return
    if libraries is not None and not (libraries / LIBRARIES / "libzstd.so.1").exists():
        fetch_libraries(libraries)
    LAUNCHER.write_text(text)
    LAUNCHER.chmod(0o755)
    if not _runs():
        LAUNCHER.unlink()
        raise fail(f"it does not run here; {WAY_OUT}")


def _runs() -> bool:
    return subprocess.run([LAUNCHER, "--version"], capture_output=True, check=False).returncode == 0


if __name__ == "__main__":
    try:
        (ROOT / ".cache").mkdir(exist_ok=True)
        with (ROOT / ".cache" / "setup.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            main()
    except OSError as error:
        raise fail(f"{error.strerror}: {error.filename}") from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
