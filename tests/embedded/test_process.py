from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import psutil
import pytest

from gateway.embedded.process import TAIL_LINES, Command, Process, StartError


def python(folder: Path, code: str, **options: object) -> Process:
    command = {
        "name": "child",
        "argv": [sys.executable, "-c", code],
        "log": folder / "logs" / "child.log",
        "deadline_s": 10.0,
    } | options
    return Process(Command(**command))  # type: ignore[arg-type]


def says(process: Process, word: str) -> bool:
    return word in process.tail()


async def started(process: Process, word: str = "ready") -> Process:
    async def probe() -> bool:
        return says(process, word)

    await process.start(probe)
    return process


async def never() -> bool:
    return False


WAITS = "import signal; print('ready', flush=True); signal.pause()"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {WAITS}"
WITH_CHILD = f"import os, subprocess; print(subprocess.Popen(['sleep', '600']).pid); {WAITS}"


async def test_a_process_that_dies_early_is_reported_with_the_end_of_its_log(
    tmp_path: Path,
) -> None:
    process = python(tmp_path, "import sys; sys.exit('the port is taken')")
    with pytest.raises(StartError, match=r"child ended \(1\) before it was ready") as caught:
        await process.start(never)
    assert caught.value.code == "child_not_started"
    assert "the port is taken" in caught.value.message
    assert str(tmp_path / "logs" / "child.log") in caught.value.message


async def test_the_log_of_an_earlier_run_is_kept_but_not_reported(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="first"):
        await python(tmp_path, "import sys; sys.exit('first')").start(never)
    with pytest.raises(StartError, match="second") as caught:
        await python(tmp_path, "import sys; sys.exit('second')").start(never)
    assert "first" not in caught.value.message
    assert "first" in (tmp_path / "logs" / "child.log").read_text()


async def test_a_process_that_is_not_ready_in_time_is_reported_and_ended(tmp_path: Path) -> None:
    process = python(tmp_path, WAITS, deadline_s=0.3)
    with pytest.raises(StartError, match="child was not ready after 0 s"):
        await process.start(never)
    assert await process.exited() == -signal.SIGTERM


async def test_a_cancelled_start_leaves_no_process(tmp_path: Path) -> None:
    process = python(tmp_path, WAITS)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await process.start(never)
    assert await process.exited() == -signal.SIGTERM


async def test_stop_asks_before_it_kills(tmp_path: Path) -> None:
    code = (
        "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(7));"
        "print('ready', flush=True); signal.pause()"
    )
    process = await started(python(tmp_path, code))
    await process.stop()
    assert await process.exited() == 7


async def test_a_process_that_ignores_the_request_is_killed_after_its_grace(
    tmp_path: Path,
) -> None:
    process = await started(python(tmp_path, STUBBORN, grace_s=0.2))
    await process.stop()
    assert await process.exited() == -signal.SIGKILL


async def test_stopping_twice_is_stopping_once(tmp_path: Path) -> None:
    process = await started(python(tmp_path, WAITS))
    await process.stop()
    await process.stop()
    assert await process.exited() == -signal.SIGTERM


async def test_what_a_process_leaves_in_its_group_ends_with_it(tmp_path: Path) -> None:
    process = await started(python(tmp_path, WITH_CHILD))
    [child] = psutil.Process(process.pid).children()
    os.kill(process.pid, signal.SIGKILL)
    assert await process.exited() == -signal.SIGKILL
    child.wait(timeout=60)
    assert not child.is_running()


async def test_ctrl_c_in_the_terminal_does_not_reach_the_process(tmp_path: Path) -> None:
    process = await started(python(tmp_path, WAITS))
    try:
        assert os.getsid(process.pid) == process.pid
        assert os.getpgid(process.pid) == process.pid
    finally:
        await process.stop()


async def test_a_process_gets_none_of_our_environment_that_could_change_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPORT", "1")
    monkeypatch.setenv("RCLONE_READ_ONLY", "true")
    code = f"import os; print(sorted(os.environ)); {WAITS}"
    process = await started(python(tmp_path, code, environment={"OWN": "1"}))
    try:
        assert says(process, "OWN")
        assert not says(process, "PGPORT")
        assert not says(process, "RCLONE_READ_ONLY")
    finally:
        await process.stop()


async def test_an_ended_process_can_be_started_again(tmp_path: Path) -> None:
    process = await started(python(tmp_path, WAITS))
    first = process.pid
    os.kill(first, signal.SIGKILL)
    await process.exited()
    await process.restart()
    try:
        assert process.pid != first
    finally:
        await process.stop()


async def test_a_command_that_fails_is_reported_with_the_end_of_its_log(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="no such encoding"):
        await python(tmp_path, "import sys; sys.exit('no such encoding')").run()
    await python(tmp_path, "print('done')").run()


def group_niceness(pid: int) -> int | None:
    """Of its session, where the kernel has such groups: it counts for more than the process's."""
    group = Path(f"/proc/{pid}/autogroup")
    return int(group.read_text().split()[-1]) if group.exists() else None


async def test_what_computes_gives_way_to_what_answers(tmp_path: Path) -> None:
    code = f"import os; print('nice', os.nice(0)); {WAITS}"
    process = await started(python(tmp_path, code, nice=3))
    try:
        ours = os.getpriority(os.PRIO_PROCESS, 0)
        assert os.getpriority(os.PRIO_PROCESS, process.pid) == min(19, ours + 3)
        # a system may forbid it, and then it stays as it is
        assert group_niceness(process.pid) in {None, 0, min(19, ours + 3)}
    finally:
        await process.stop()


async def test_a_process_that_could_not_be_run_can_be_restarted_once_it_can(tmp_path: Path) -> None:
    process = await started(python(tmp_path, WAITS))
    await process.stop()
    log = process.command.log
    await asyncio.to_thread(log.unlink)
    await asyncio.to_thread(log.mkdir)
    for _ in range(2):
        with pytest.raises(IsADirectoryError):
            await process.restart()
    await asyncio.to_thread(log.rmdir)
    await process.restart()
    assert not process.ended
    await process.stop()


async def test_what_was_said_is_found_behind_many_lines(tmp_path: Path) -> None:
    code = f"print('ready 1\\n' + 'more\\n' * {2 * TAIL_LINES} + 'last', flush=True)"
    process = python(tmp_path, code)
    await process.run()
    assert process.tail().endswith("last")
    assert process.says("ready")
    assert not process.says("eady")
