"""`AudioConverter`: the conversion in a thread and the one in child processes promise the same."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import os
import resource
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import pytest_asyncio
import uvloop

from functions._kit.errors import (
    TooManyRequests,
    Unavailable,
    Unprocessable,
    UnsupportedMedia,
)
from functions._kit.fakes import FakeAudioConverter
from functions._kit.ports import SPEECH, AudioConverter, AudioTarget, AudioTooLong, Sound
from gateway.adapters.confined import process
from gateway.adapters.confined.child import Child
from gateway.adapters.confined.converter import SOUND, ProcessConverter, open_converter
from gateway.adapters.confined.messages import AnyWork, Convert, Done, Stopped
from gateway.adapters.confined.sound_child import MEMORY_BYTES

MP3 = AudioTarget(format="mp3", sample_rate=48_000, channels=2)
"""The slowest target."""
AT_ONCE, MAX_WAITING = 2, 3


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """short.opus lasts 2 s, long.flac ten minutes, cut.wav is cut, words.opus is text."""
    folder = tmp_path_factory.mktemp("sounds")
    short = (np.sin(np.arange(96_000) / 10) * 10_000).astype(np.int16)
    long = np.zeros(600 * 8_000, np.int16)
    long[::2] = np.random.default_rng(3).integers(-9_000, 9_000, long.size // 2)
    for name, container, codec, rate, samples in (
        ("short.opus", "ogg", "libopus", 48_000, short),
        ("long.flac", "flac", "flac", 8_000, long),
    ):
        with av.open(str(folder / name), "w", format=container) as out:
            stream: Any = out.add_stream(codec, rate=rate, layout="mono")
            frame = av.AudioFrame.from_ndarray(samples[None], "s16", "mono")
            frame.sample_rate = rate
            out.mux(stream.encode(frame))
            out.mux(stream.encode(None))
    (folder / "words.opus").write_bytes(b"not a sound\n" * 50)
    (folder / "cut.wav").write_bytes(b"RIFF\xff\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0")
    return folder


@pytest_asyncio.fixture
async def real() -> AsyncIterator[ProcessConverter]:
    async with open_converter(AT_ONCE, AT_ONCE, MAX_WAITING) as converter:
        yield converter
        pids = converter.pids
    assert not any(alive(pid) for pid in pids), "a child is left"


@pytest.fixture(params=["fake", "real"])
def converter(request: pytest.FixtureRequest) -> AudioConverter:
    if request.param == "fake":
        return FakeAudioConverter(AT_ONCE, MAX_WAITING)
    made: AudioConverter = request.getfixturevalue("real")
    return made


def alive(pid: int) -> bool:
    """Whether there is such a process, a zombie too."""
    return Path(f"/proc/{pid}").exists()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.002)


async def ends(*tasks: asyncio.Task[Sound]) -> list[Sound | BaseException]:
    return await asyncio.gather(*tasks, return_exceptions=True)


def environment(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()


def status(pid: int) -> str:
    return Path(f"/proc/{pid}/status").read_text()


def open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def address_space(pid: int) -> int:
    """Bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()


def begin(
    converter: AudioConverter, source: Path, into: Path, target: AudioTarget = MP3
) -> asyncio.Task[Sound]:
    return asyncio.create_task(converter.convert(source, into, target, longest_s=1000))


async def test_a_file_is_converted_and_counted(
    converter: AudioConverter, sounds: Path, tmp_path: Path
) -> None:
    into = tmp_path / "out.wav"
    sound = await converter.convert(sounds / "short.opus", into, SPEECH, longest_s=10)
    assert (sound.duration_s, sound.container, sound.codec) == (2.0, "ogg", "opus")
    assert sound.size_bytes == into.stat().st_size == 44 + 64_000
    figures = converter.figures()
    assert (figures.active, figures.waiting, figures.completed, figures.failed) == (0, 0, 1, 0)
    assert figures.max_concurrent == AT_ONCE
    assert figures.total_time_s > 0


@pytest.mark.parametrize(
    ("name", "longest_s", "kind", "code"),
    [
        ("words.opus", 10, UnsupportedMedia, "unsupported_audio"),
        ("cut.wav", 10, Unprocessable, "undecodable_audio"),
        ("long.flac", 599, AudioTooLong, "audio_too_long"),
        ("short.opus", 1.1, AudioTooLong, "audio_too_long"),
    ],
)
async def test_a_bad_file_is_refused_and_nothing_is_left(
    converter: AudioConverter,
    sounds: Path,
    tmp_path: Path,
    name: str,
    longest_s: float,
    kind: type[Unprocessable],
    code: str,
) -> None:
    into = tmp_path / "out.wav"
    with pytest.raises(kind) as refused:
        await converter.convert(sounds / name, into, SPEECH, longest_s=longest_s)
    assert type(refused.value) is kind
    assert (refused.value.code, refused.value.field) == (code, "file")
    assert not into.exists()
    figures = converter.figures()
    failed = 0 if kind is AudioTooLong else 1  # another caller may take it
    assert (figures.active, figures.completed, figures.failed) == (0, 0, failed)
    if isinstance(refused.value, AudioTooLong):
        told = {"long.flac": 600, "short.opus": pytest.approx(2, abs=0.05)}
        assert refused.value.duration_s == told[name]


async def test_a_target_that_is_not_written_is_refused_before_it_counts(
    converter: AudioConverter, sounds: Path, tmp_path: Path
) -> None:
    with pytest.raises(Unprocessable) as refused:
        await converter.convert(
            sounds / "short.opus", tmp_path / "out", AudioTarget(channels=7), longest_s=10
        )
    assert refused.value.code == "unsupported_target"
    assert converter.figures().failed == 0


async def test_a_missing_file_is_our_fault(converter: AudioConverter, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await converter.convert(tmp_path / "none", tmp_path / "out", SPEECH, longest_s=10)


async def test_so_many_run_so_many_wait_and_no_more_come_in(
    converter: AudioConverter, sounds: Path, tmp_path: Path
) -> None:
    ended: list[int] = []
    source = sounds / "short.opus"
    tasks = [begin(converter, source, tmp_path / f"{n}.mp3") for n in range(AT_ONCE + MAX_WAITING)]
    for task in tasks:
        task.add_done_callback(lambda done: ended.append(tasks.index(done)))
    await asyncio.sleep(0)  # each runs until it waits
    figures = converter.figures()
    assert (figures.active, figures.waiting) == (AT_ONCE, MAX_WAITING)
    with pytest.raises(TooManyRequests) as refused:
        await converter.convert(source, tmp_path / "more.mp3", MP3, longest_s=10)
    assert refused.value.code == "too_many_conversions"
    assert 1 <= refused.value.retry_after_s <= 60
    assert not (tmp_path / "more.mp3").exists()
    await asyncio.gather(*tasks)
    assert set(ended[:AT_ONCE]) <= {0, 1, 2}  # first come, first served, two at a time
    figures = converter.figures()
    assert (figures.active, figures.waiting) == (0, 0)
    assert (figures.completed, figures.failed) == (AT_ONCE + MAX_WAITING, 0)


async def test_who_goes_away_frees_the_place_whether_waiting_or_running(
    converter: AudioConverter, sounds: Path, tmp_path: Path
) -> None:
    into = [tmp_path / f"{n}.mp3" for n in range(AT_ONCE + 1)]
    running = [begin(converter, sounds / "long.flac", path) for path in into[:AT_ONCE]]
    waiting = begin(converter, sounds / "long.flac", into[-1])
    await until(lambda: all(path.exists() for path in into[:AT_ONCE]))
    assert converter.figures().waiting == 1
    waiting.cancel()
    assert isinstance((await ends(waiting))[0], asyncio.CancelledError)
    assert (converter.figures().active, converter.figures().waiting) == (AT_ONCE, 0)
    for task in running:
        task.cancel()
    assert all(isinstance(end, asyncio.CancelledError) for end in await ends(*running))
    assert not any(path.exists() for path in into)
    figures = converter.figures()
    assert (figures.active, figures.completed, figures.failed) == (0, 0, AT_ONCE)
    sound = await converter.convert(sounds / "short.opus", into[0], SPEECH, longest_s=10)
    assert sound.duration_s == 2


async def test_children_start_at_the_first_need_and_stay_warm(
    real: ProcessConverter, sounds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "STOP_S", 60.0)
    assert not real.pids
    await real.convert(sounds / "short.opus", tmp_path / "a.wav", SPEECH, longest_s=10)
    (first,) = real.pids
    await real.convert(sounds / "short.opus", tmp_path / "a.wav", SPEECH, longest_s=10)
    assert real.pids == {first}
    gone = begin(real, sounds / "long.flac", tmp_path / "b.mp3")
    await until((tmp_path / "b.mp3").exists)
    gone.cancel()
    await ends(gone)
    assert real.pids == {first}, "a child that is told to stop need not be replaced"


def test_a_stop_that_a_callback_swallows_is_heard_at_the_next_sign_of_life(
    tmp_path: Path,
) -> None:
    def deaf(_: AnyWork, on_progress: Callable[[float], None]) -> Done:
        with suppress(BaseException):
            working.stop(signal.SIGUSR1, None)
        on_progress(1.0)
        raise AssertionError("it goes on")

    working = Child(io.BytesIO(), deaf)
    work = Convert(source="a", into=str(tmp_path / "b"), target=MP3, longest_s=10)
    assert working._answer(work) == Stopped()


async def test_a_child_has_limits_and_no_secrets(
    real: ProcessConverter, sounds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEREID_TOKEN_SECRET", "not for strangers' files")
    await real.convert(sounds / "short.opus", tmp_path / "a.wav", SPEECH, longest_s=10)
    (pid,) = real.pids
    assert b"NEREID" not in environment(pid)
    memory, _ = resource.prlimit(pid, resource.RLIMIT_AS)
    assert MEMORY_BYTES < memory < 2 * MEMORY_BYTES
    assert resource.prlimit(pid, resource.RLIMIT_CORE) == (0, 0)
    assert resource.prlimit(pid, resource.RLIMIT_NOFILE)[0] <= 64
    assert open_files(pid) <= 7
    assert "NoNewPrivs:\t1" in status(pid)


async def test_a_child_that_is_killed_costs_nobody_anything(
    real: ProcessConverter, sounds: Path, tmp_path: Path
) -> None:
    into = tmp_path / "out.wav"
    task = begin(real, sounds / "long.flac", into, SPEECH)
    await until(into.exists)
    (pid,) = real.pids
    os.kill(pid, signal.SIGKILL)
    assert (await task).duration_s == 600
    assert pid not in real.pids
    figures = real.figures()
    assert (figures.completed, figures.failed) == (1, 0)


async def test_children_that_die_while_nothing_is_asked_of_them_are_replaced(
    real: ProcessConverter, sounds: Path, tmp_path: Path
) -> None:
    for number in range(2):
        into = [tmp_path / f"{number}-{n}.wav" for n in range(AT_ONCE)]
        tasks = [begin(real, sounds / "short.opus", path, SPEECH) for path in into]
        assert [sound.duration_s for sound in await asyncio.gather(*tasks)] == [2, 2]
        for pid in real.pids:
            os.kill(pid, signal.SIGKILL)
    assert (real.figures().completed, real.figures().failed) == (4, 0)


def test_a_child_that_died_before_it_was_asked_is_known_to_be_dead_by_uvloop_too(
    tmp_path: Path,
) -> None:
    async def ask_the_dead() -> None:
        child = await process.start(SOUND)
        os.kill(child.pid, signal.SIGKILL)
        await child._process.wait()
        work = Convert(source="", into=str(tmp_path / "out"), target=SPEECH, longest_s=1)
        with pytest.raises(process.Died):
            await child.work(work)
        assert not child.usable

    uvloop.run(ask_the_dead())


async def test_a_file_that_kills_two_children_is_blamed(
    real: ProcessConverter, sounds: Path, tmp_path: Path
) -> None:
    into = tmp_path / "out.mp3"
    task = begin(real, sounds / "long.flac", into)
    killed: set[int] = set()
    while not task.done():
        for pid in real.pids - killed:
            killed.add(pid)
            os.kill(pid, signal.SIGSEGV)
        await asyncio.sleep(0.002)
    with pytest.raises(Unprocessable, match="ends the program"):
        await task
    assert len(killed) == 2
    assert not into.exists()
    again = await real.convert(sounds / "short.opus", into, SPEECH, longest_s=10)
    assert again.duration_s == 2


async def test_a_file_that_takes_too_much_memory_is_refused(
    real: ProcessConverter, sounds: Path, tmp_path: Path
) -> None:
    into = tmp_path / "out.mp3"
    await real.convert(sounds / "short.opus", into, SPEECH, longest_s=10)
    (pid,) = real.pids
    used = address_space(pid)
    resource.prlimit(pid, resource.RLIMIT_AS, (used, used))
    with pytest.raises(Unprocessable) as refused:
        await real.convert(
            sounds / "long.flac",
            into,
            AudioTarget(sample_rate=192_000, channels=2),
            longest_s=1000,
        )
    assert refused.value.code == "undecodable_audio"
    assert not into.exists()
    sound = await real.convert(sounds / "short.opus", into, SPEECH, longest_s=10)
    assert sound.duration_s == 2


async def test_a_child_that_is_stuck_is_ended(sounds: Path, tmp_path: Path) -> None:
    hasty = dataclasses.replace(SOUND, open_s=60.0, silence_s=2.0)
    async with open_converter(AT_ONCE, AT_ONCE, MAX_WAITING, kind=hasty) as converter:
        into = tmp_path / "out.mp3"
        task = begin(converter, sounds / "long.flac", into)
        await until(into.exists)
        (pid,) = converter.pids
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(Unprocessable, match="too long") as refused:
            await task
        assert refused.value.code == "undecodable_audio"
        assert not alive(pid)
    assert not into.exists()


async def test_a_child_that_does_not_stop_when_told_is_killed(
    real: ProcessConverter, sounds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "STOP_S", 0.2)
    into = tmp_path / "out.mp3"
    task = begin(real, sounds / "long.flac", into)
    await until(into.exists)
    (pid,) = real.pids
    os.kill(pid, signal.SIGSTOP)
    task.cancel()
    await ends(task)
    assert not alive(pid)
    assert not into.exists()
    assert real.figures().active == 0


async def test_a_converter_that_closes_leaves_neither_work_nor_children(
    sounds: Path, tmp_path: Path
) -> None:
    async with open_converter(8, AT_ONCE, MAX_WAITING) as converter:
        into = [tmp_path / f"{n}.mp3" for n in range(AT_ONCE)]
        tasks = [begin(converter, sounds / "long.flac", path) for path in into]
        await until(lambda: all(path.exists() for path in into))
        pids = converter.pids
        assert len(pids) == converter.figures().max_concurrent == AT_ONCE
    assert not any(alive(pid) for pid in pids)
    assert all(isinstance(end, Unavailable) for end in await ends(*tasks))
    assert not any(path.exists() for path in into)


async def test_an_interpreter_that_cannot_start_a_child_says_so(
    sounds: Path, tmp_path: Path
) -> None:
    broken = dataclasses.replace(SOUND, module="gateway.adapters.confined.nothing")
    async with open_converter(AT_ONCE, AT_ONCE, MAX_WAITING, kind=broken) as converter:
        with pytest.raises(Unavailable, match="did not start"):
            await converter.convert(sounds / "short.opus", tmp_path / "a", SPEECH, longest_s=10)
        assert not converter.pids


PARENT = """
import asyncio, sys
from pathlib import Path
from functions._kit.ports import SPEECH
from gateway.adapters.confined.converter import open_converter

async def main():
    async with open_converter(1, 1, 1) as converter:
        await converter.convert(Path(sys.argv[1]), Path(sys.argv[2]), SPEECH, longest_s=10)
        print(*converter.pids, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_children_die_with_their_parent(sounds: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-c", PARENT, str(sounds / "short.opus"), str(tmp_path / "a")]
    parent = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    child = int(await parent.stdout.readline())
    assert alive(child)
    parent.kill()
    await parent.wait()
    await until(lambda: not alive(child))


def test_uvloop_runs_it_as_well(sounds: Path, tmp_path: Path) -> None:
    async def both() -> frozenset[int]:
        async with open_converter(1, 1, 1) as converter:
            task = begin(converter, sounds / "long.flac", tmp_path / "a.mp3")
            await until((tmp_path / "a.mp3").exists)
            task.cancel()
            await ends(task)
            await converter.convert(sounds / "short.opus", tmp_path / "b.wav", SPEECH, longest_s=10)
            return converter.pids

    (pid,) = uvloop.run(both())
    assert not alive(pid)
    assert [path.name for path in tmp_path.iterdir()] == ["b.wav"]
