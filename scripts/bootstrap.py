#!/usr/bin/env python3
"""The first command on a fresh machine: python3 scripts/bootstrap.py RECIPE [ARGUMENTS]

Makes .tools (uv and just, by hash) inside the checkout, then becomes `just RECIPE ARGUMENTS`.
Standard library only. Written for Python 3.11, and readable by older ones so that they can say so.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ROOT / ".tools"
STAMP = TOOLS / ".nereid-stamp"
REQUIREMENTS = ROOT / "requirements" / "tools.txt"
OLDEST_PYTHON = (3, 11)
OLDEST_GLIBC = (2, 35)  # what the wheel of Triton's server is built for

# Debian's and Fedora's certificates, which may know a company's own where uv's do not.
CERTIFICATES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt")

NO_NETWORK = (
    r"Name or service not known|NewConnectionError|Network is unreachable|timed out"
    r"|name resolution|Connection refused|ProxyError|No route to host|from versions: none"
)
UNREACHABLE = (
    "the package registry cannot be reached: check the network (behind a proxy set HTTPS_PROXY,"
    " with a mirror set PIP_INDEX_URL and UV_DEFAULT_INDEX), then run the same command again"
)

# What pip says, and what that means to the person at the keyboard.
MEANINGS = (
    (r"No space left on device", "the disk is full: free 6 GB, then run the same command again"),
    (NO_NETWORK, UNREACHABLE),
    (r"CERTIFICATE_VERIFY_FAILED", "the registry's certificate is not trusted: set SSL_CERT_FILE"),
    (r"DO NOT MATCH THE HASHES", "a package is not the one that was reviewed (its hash differs)"),
    (r"No matching distribution", "the package registry lacks a package of requirements/tools.txt"),
)


def fail(message: str) -> None:
    """Say one line and end."""
    raise SystemExit("bootstrap: " + message)


def check_machine() -> None:
    """End with one line where Nereid cannot run."""
    if sys.version_info < OLDEST_PYTHON:
        fail(
            "Python 3.11 or newer is needed and this is "
            + platform.python_version()
            + ": install one and start this script with it, as in `python3.11 scripts/bootstrap.py`"
        )
    if sys.platform != "linux" or platform.machine() != "x86_64":
        fail(
            "Linux on x86_64 is needed (Triton's server is built for it alone) and this is "
            f"{sys.platform} on {platform.machine()}: use such a machine, or a virtual one"
        )
    name = os.confstr("CS_GNU_LIBC_VERSION") if "CS_GNU_LIBC_VERSION" in os.confstr_names else ""
    version = tuple(int(part) for part in re.findall(r"\d+", name or "")[:2])
    if version < OLDEST_GLIBC:
        fail(
            "glibc 2.35 or newer is needed (Ubuntu 22.04, Debian 12, Fedora 36 have it), this is "
            + (name or "another C library")
        )


def wanted_stamp() -> str:
    """What the stamp says when .tools is complete: the requirements and the Python."""
    digest = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    return digest + " " + platform.python_version()


def is_ready() -> bool:
    """Whether .tools is complete and its Python still there."""
    python = TOOLS / "bin" / "python"
    return STAMP.is_file() and STAMP.read_text() == wanted_stamp() and python.exists()


def run(what: str, *command: str) -> None:
    """Run `command`; when it fails, end with one line that says what and how to mend it."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return
    output = done.stdout + done.stderr
    for pattern, meaning in MEANINGS:
        if re.search(pattern, output):
            fail(what + ": " + meaning)
    sys.stderr.write(output)
    fail(what + f" failed ({done.returncode}), see above")


def make_tools() -> None:
    """Make .tools anew: a virtual environment with uv and just. The stamp is written last."""
    if not all(importlib.util.find_spec(name) for name in ("venv", "ensurepip")):
        version = ".".join(platform.python_version_tuple()[:2])
        fail(
            "this Python has no venv module: install it "
            f"(on Debian and Ubuntu: apt install python{version}-venv), then run this again"
        )
    sys.stderr.write("Installing uv and just into .tools ...\n")
    run("making .tools", sys.executable, "-m", "venv", "--clear", str(TOOLS))
    pip = (str(TOOLS / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check")
    how = ("--quiet", "--require-hashes", "--only-binary=:all:", "-r", str(REQUIREMENTS))
    run("installing uv and just", *pip, *how)
    STAMP.write_text(wanted_stamp())


def main() -> None:
    """Make .tools where needed, then become `just`."""
    check_machine()
    os.environ["PYTHONSAFEPATH"] = "1"
    for name in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"):  # they would mix other packages in
        os.environ.pop(name, None)
    if any(Path(bundle).exists() for bundle in CERTIFICATES):
        os.environ.setdefault("UV_SYSTEM_CERTS", "1")
    try:
        if not is_ready():
            (ROOT / ".cache").mkdir(exist_ok=True)
            with (ROOT / ".cache" / "bootstrap.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)  # another bootstrap may be at it
                if not is_ready():
                    make_tools()
    except OSError as error:
        fail(f"{error.strerror}: {error.filename or ROOT}")
    just = str(TOOLS / "bin" / "just")
    sys.stdout.flush()
    os.execv(just, [just, "--justfile", str(ROOT / "justfile"), *sys.argv[1:]])  # noqa: S606


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
    raise SystemExit(130)
