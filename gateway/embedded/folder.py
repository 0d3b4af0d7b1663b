"""The data folder: one owner at a time, secrets made once, ports kept over restarts."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import secrets
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from functions._kit.errors import Conflict

# Below Linux's default range for outgoing connections (32768 up), which could take a port from us.
PORTS = range(20_000, 32_768)
LEFTOVER_DEADLINE_S = 20.0
RETRY_INTERVAL_S = 0.05


class DataFolder:
    """A folder of mode 0700 that one `nereid up` owns from `open` to `close`."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.lock_fd = -1
        self._claims: dict[int, int] = {}

    async def open(self) -> None:
        """Make and lock the folder. Raises `Conflict` (code `data_in_use`) when it is taken.

        The servers inherit the lock, so after a crash this waits until the last of them is gone.
        """
        with self._usable():
            self.path.mkdir(parents=True, exist_ok=True)
            self.path.chmod(0o700)
            self.lock_fd = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            async with asyncio.timeout(LEFTOVER_DEADLINE_S):
                while not self._lock():
                    self._refuse_if_owned()
                    await asyncio.sleep(RETRY_INTERVAL_S)
        except TimeoutError:
            self.close()
            raise self._in_use("servers that an earlier run left behind") from None
        except BaseException:
            self.close()
            raise
        os.ftruncate(self.lock_fd, 0)
        os.pwrite(self.lock_fd, str(os.getpid()).encode(), 0)

    def close(self) -> None:
        """Give the folder and its ports back."""
        while self._claims:
            os.close(self._claims.popitem()[1])
        if self.lock_fd >= 0:
            os.close(self.lock_fd)
            self.lock_fd = -1

    def folder(self, name: str) -> Path:
        """The folder DATA/`name`, made when absent."""
        path = self.path / name
        with self._usable():
            path.mkdir(exist_ok=True)
        return path

    def log(self, name: str) -> Path:
        """Where the server `name` writes its log."""
        return self.folder("logs") / f"{name}.log"

    def secret(self, name: str) -> str:
        """The secret `name` of credentials.json: 32 random bytes as 64 hex digits, made once."""
        return self._remembered("credentials.json", name, secrets.token_hex(32))

    def port(self, name: str) -> int:
        """A free port on 127.0.0.1: that of the last run if it is free, else a new one."""
        kept = self._read("ports.json")
        port = int(kept.get(name, 0))
        taken = {int(value) for other, value in kept.items() if other != name}
        while port in taken or not (self._claim(port) and _is_free(port)):
            port = secrets.choice(PORTS)
        self.write("ports.json", json.dumps(kept | {name: str(port)}, indent=1))
        return port

    def write(self, name: str, text: str) -> Path:
        """Write DATA/`name`, mode 0600, whole or not at all; return its path."""
        path = self.path / name
        fresh = path.with_name(path.name + ".new")
        with self._usable():
            fresh.unlink(missing_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
            with os.fdopen(os.open(fresh, flags, 0o600), "w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            return fresh.replace(path)

    @contextmanager
    def _usable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise Conflict(
                "data_unusable",
                f"The data folder {self.path} cannot be written to: {error.filename or ''} "
                f"{error.strerror}. Give it space and the right owner, or choose another "
                "folder with --data.",
                field="data",
            ) from error

    def _remembered(self, file: str, name: str, fresh: str) -> str:
        kept = self._read(file)
        if name not in kept:
            kept[name] = fresh
            self.write(file, json.dumps(kept, indent=1))
        return kept[name]

    def _claim(self, port: int) -> bool:
        """Keep other folders from this port between our look at it and the server's start."""
        if port == 0 or port in self._claims:
            return port != 0
        claims = Path(tempfile.gettempdir()) / f"nereid-ports-{os.getuid()}"
        claims.mkdir(mode=0o700, exist_ok=True)
        claim = os.open(claims / str(port), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(claim)
            return False
        self._claims[port] = claim
        return True

    def _read(self, file: str) -> dict[str, str]:
        path = self.path / file
        if not path.exists():
            return {}
        try:
            kept = json.loads(path.read_text())
        except ValueError:
            kept = None
        if not isinstance(kept, dict):
            raise Conflict(
                "data_damaged", f"{path} is not what Nereid wrote: restore or remove it."
            )
        return {str(name): str(value) for name, value in kept.items()}

    def _lock(self) -> bool:
        try:
            fcntl.flock(self.lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _refuse_if_owned(self) -> None:
        text = os.pread(self.lock_fd, 20, 0)
        if text.isdigit() and _alive(int(text)):
            raise self._in_use(f"process {int(text)}")

    def _in_use(self, by: str) -> Conflict:
        return Conflict(
            "data_in_use",
            f"The data folder {self.path} is in use by {by}: "
            "stop that first, or choose another folder with --data.",
            field="data",
        )


def in_use(path: Path) -> bool:
    """Whether somebody owns the data folder `path` now, or servers that it left behind do."""
    try:
        lock = os.open(path / "lock", os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def _alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] not in {"Z", "X"}


def _is_free(port: int) -> bool:
    if port == 0:
        return False
    with socket.socket() as probe:
        # As the servers do: a port whose last connections are still closing is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
