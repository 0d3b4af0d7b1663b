"""What a load test is sent to: a system of its own, or one that runs already."""

from __future__ import annotations

import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

NEREID = str(Path(sys.executable).with_name("nereid"))
STOP_S = 120
CLIENT = "load"


@dataclass(frozen=True, slots=True)
class Target:
    """Where to send, and the API key of a client that may."""

    url: str
    key: str
    secret: str = ""
    """Of the same client, `CLIENT`, on a system of our own."""
    pid: int = 0
    """Of `nereid up`, there."""


@contextmanager
def own_system(folder: Path) -> Iterator[Target]:
    """`nereid up` in processes of its own on `folder`. Raises `RuntimeError` if it does not start.

    In other processes, so that what locust does to the standard library stays in this one.
    """
    data, log = str(folder / "data"), folder / "up.log"
    with log.open("w") as said:
        command = [NEREID, "up", "--data", data, "--port", "0"]
        up = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True)
    try:
        line = up.stdout.readline() if up.stdout else ""
        if not line.startswith("ready "):
            raise RuntimeError(f"nereid up: {log.read_text()[-2000:]}")
        key, secret = secrets.token_urlsafe(24), secrets.token_urlsafe(24)
        add = ["clients", "add", CLIENT, "--api-key", key, "--secret", secret, "--data", data]
        subprocess.run([NEREID, *add], check=True, stdout=subprocess.DEVNULL)
        yield Target(line.split()[1], key, secret, up.pid)
    finally:
        up.send_signal(signal.SIGTERM)
        up.wait(STOP_S)
