"""One child process: started with its log, waited for until it answers, ended by its own pid."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from functions._kit.errors import NereidError

LAUNCHER = Path(__file__).with_name("launch.py")
PROBE_INTERVAL_S = 0.02
TAIL_LINES = 12
LOG_LIMIT_BYTES = 16 << 20
NICE = 5
"""Of what computes: a third of the share of what answers, where both want a core."""

# Everything else of the caller's environment (PG*, RCLONE_*, AWS_*, ...) would change the servers.
INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR")

Probe: TypeAlias = Callable[[], Awaitable[bool]]


class StartError(NereidError):
    """An embedded server did not come up; `code` is NAME_not_started.

    `crashed`: a signal that nobody here sent ended it, such as SIGABRT.
    """

    def __init__(self, name: str, message: str, *, crashed: bool = False) -> None:
        super().__init__(f"{name}_not_started", message)
        self.crashed = crashed


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What to run and how to end it. `user` is who to become when we are root."""

    name: str
    argv: list[str]
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    stop_signal: signal.Signals = signal.SIGTERM
    death_signal: signal.Signals = signal.SIGKILL
    grace_s: float = 10.0
    user: str = ""
    keep_fds: tuple[int, ...] = ()
    deadline_s: float = 30.0
    nice: int = 0
    """How far it gives way to others when cores are short (setpriority(2))."""


class Process:
    """A running command. Start it from a thread that lives as long as the process shall."""

    def __init__(self, command: Command) -> None:
        self.command = command
        self._child: subprocess.Popen[bytes] | None = None
        self._exited = asyncio.Event()
        self._log_start = 0
        self._probe: Probe | None = None

    @property
    def pid(self) -> int:
        """The running child's process id, also its process group."""
        if self._child is None:
            raise RuntimeError(f"{self.command.name} was not started")
        return self._child.pid

    @property
    def ended(self) -> bool:
        """Whether it was started and has ended."""
        return self._exited.is_set()

    async def start(self, probe: Probe) -> None:
        """Start the command and return once `probe` says that it answers.

        Raises `StartError`, with the log's last lines, when it dies or is late; ends it then.
        """
        self._probe = probe
        self._spawn()
        try:
            await self._until(probe)
        except BaseException:
            await self.stop()
            raise

    async def restart(self) -> None:
        """Start an ended process again, as the first time. Raises as `start` does."""
        if self._probe is None or not self._exited.is_set():
            raise RuntimeError(f"{self.command.name} has not ended")
        await self.start(self._probe)

    async def run(self) -> None:
        """Start a command that ends by itself and wait for it; raises `StartError` if it fails."""
        self._spawn()
        try:
            async with asyncio.timeout(self.command.deadline_s):
                if await self.exited() != 0:
                    raise self._died()
        except TimeoutError:
            raise self._late() from None
        finally:
            await self.stop()

    async def exited(self) -> int:
        """Wait until the process has ended; return its exit status (negative: the signal)."""
        await self._exited.wait()
        if self._child is None:
            raise RuntimeError(f"{self.command.name} was not started")
        return self._child.wait()

    async def stop(self) -> None:
        """Ask the process to end, kill it after its grace period, and end what it left behind."""
        if self._child is None or self._exited.is_set():
            return
        self._signal(self.command.stop_signal)
        try:
            async with asyncio.timeout(self.command.grace_s):
                await self._exited.wait()
        except TimeoutError:
            self._signal(signal.SIGKILL)
            await self._exited.wait()

    def tail(self) -> str:
        """The last lines that this run wrote to its log."""
        lines = self._lines()
        # Triton draws tables, of which only the rows of failed models say what went wrong.
        told = [
            " ".join(line.split())
            for line in lines
            if line and (not line.startswith(("|", "+-")) or "UNAVAILABLE" in line)
        ]
        return "\n".join(told[-TAIL_LINES:])

    def says(self, beginning: str) -> bool:
        """Whether a line of this run's log begins so."""
        return any(line.startswith(beginning) for line in self._lines())

    def _lines(self) -> list[str]:
        with self.command.log.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode(errors="replace").splitlines()

    def _spawn(self) -> None:
        command = self.command
        command.log.parent.mkdir(parents=True, exist_ok=True)
        if command.log.exists() and command.log.stat().st_size > LOG_LIMIT_BYTES:
            command.log.replace(command.log.with_suffix(".log.1"))
        environment = {name: os.environ[name] for name in INHERITED if name in os.environ}
        launch = [sys.executable, "-I", "-S", str(LAUNCHER), str(int(command.death_signal))]
        with command.log.open("ab") as log:
            self._log_start = log.tell()
            self._child = subprocess.Popen(
                [*launch, str(os.getpid()), command.user, *command.argv],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment | dict(command.environment),
                # Its own session: Ctrl-C in a terminal reaches us alone, and we stop in order.
                start_new_session=True,
                pass_fds=command.keep_fds,
            )
        if command.nice:
            _give_way(self._child.pid, command.nice)
        self._exited.clear()  # not before: what could not be run can be restarted
        watch = os.pidfd_open(self._child.pid)
        asyncio.get_running_loop().add_reader(watch, self._reap, watch)

    def _reap(self, watch: int) -> None:
        asyncio.get_running_loop().remove_reader(watch)
        os.close(watch)
        # Not reaped yet, so that the number of its process group cannot be another's by now.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        if self._child is not None:
            self._child.wait()
        self._exited.set()

    def _signal(self, number: signal.Signals) -> None:
        if self._child is not None:
            self._child.send_signal(number)

    async def _until(self, probe: Probe) -> None:
        exited = asyncio.create_task(self._exited.wait())
        try:
            async with asyncio.timeout(self.command.deadline_s):
                while not await probe():
                    await asyncio.wait({exited}, timeout=PROBE_INTERVAL_S)
                    if exited.done():
                        raise self._died()
        except TimeoutError:
            raise self._late() from None
        finally:
            exited.cancel()

    def _died(self) -> StartError:
        status = self._child.wait() if self._child is not None else 0
        how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended ({status})"
        return self._failed(f"{how} before it was ready", crashed=status < 0)

    def _late(self) -> StartError:
        return self._failed(f"was not ready after {self.command.deadline_s:.0f} s")

    def _failed(self, what: str, *, crashed: bool = False) -> StartError:
        name, log = self.command.name, self.command.log
        message = f"{name} {what}. The end of its log, {log}:\n{self.tail()}"
        return StartError(name, message, crashed=crashed)


def _give_way(pid: int, nice: int) -> None:
    """Its session may be scheduled as a group with a niceness of its own (sched(7), autogroup)."""
    nice = min(19, os.getpriority(os.PRIO_PROCESS, 0) + nice)
    with contextlib.suppress(OSError):  # it has died, or the system forbids it
        os.setpriority(os.PRIO_PROCESS, pid, nice)
        Path(f"/proc/{pid}/autogroup").write_text(str(nice))


async def http_status(port: int, path: str, *, tls: bool = False) -> int | None:
    """The status of GET `path` on this machine's `port`, or None while nothing answers there.

    With `tls` any certificate will do: it names the host that clients know, not loopback.
    """
    context = ssl._create_unverified_context() if tls else None  # noqa: SLF001, S323 - see above
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    except OSError:
        return None
    try:
        request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n"
        writer.write(request.encode())
        status_line = await reader.readline()
    except OSError:
        return None
    finally:
        writer.close()
    words = status_line.split()
    return int(words[1]) if len(words) > 1 and words[1].isdigit() else None
