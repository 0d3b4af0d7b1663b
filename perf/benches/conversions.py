"""`just bench conversions`: OPUS to 16 kHz WAV, through `ProcessConverter` and through ffmpeg."""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path

import imageio_ffmpeg
import psutil
from benches.voices import voices
from measure import ratio, resident_mb, row, say

from functions._kit.ports import SPEECH
from gateway.adapters.confined.converter import ProcessConverter, open_converter

AT_ONCE = 2
"""Conversions at once, ours and ffmpeg's: one a core."""
CLIENTS = 50
SECONDS = (10.0, 60.0)
IN_A_ROW = 5_000
LOOKS = 10
"""How often memory is looked at while so many are converted."""


async def conversions(options: argparse.Namespace) -> None:
    """50 clients at once with files of 10 s and of a minute; then 5,000 conversions in a row."""
    with tempfile.TemporaryDirectory(prefix="nereid-bench-") as name:
        folder = Path(name)
        for seconds in SECONDS:
            files = await asyncio.to_thread(voices, folder, seconds, CLIENTS)
            await against_ffmpeg(folder, files, seconds, options.runs)
        await in_a_row(folder, files[:1] + voices(folder, SECONDS[0], 8))


async def against_ffmpeg(folder: Path, files: list[Path], seconds: float, runs: int) -> None:
    """All files at once: how long until the last is written, turn about with ffmpeg."""
    ours: list[float] = []
    theirs: list[float] = []
    answers: list[float] = []
    async with open_converter(AT_ONCE, AT_ONCE, CLIENTS) as converter:
        await all_at_once(converter, folder, files[: 2 * AT_ONCE])
        for _ in range(runs):
            times = await all_at_once(converter, folder, files)
            answers += times
            ours.append(max(times))
            theirs.append(await all_by_ffmpeg(folder, files))
    facts = {"files": len(files), "seconds_each": seconds, "at_once": AT_ONCE, "runs": runs}
    limit = "most_s < 2" if seconds == SECONDS[0] else None
    row("conversions.answer", answers, limit=limit, **facts)
    row("conversions.all", ours, **facts)
    row("conversions.all_by_ffmpeg", theirs, peer=imageio_ffmpeg.get_ffmpeg_version(), **facts)
    say("conversions.times_ffmpeg", times=round(ratio(theirs, ours), 2), limit=">= 1.2", **facts)


async def all_at_once(converter: ProcessConverter, folder: Path, files: list[Path]) -> list[float]:
    """Seconds from now until each file is converted."""
    began = time.perf_counter()

    async def one(source: Path) -> float:
        into = folder / f"{source.name}.wav"
        await converter.convert(source, into, SPEECH, longest_s=3600)
        taken_s = time.perf_counter() - began
        into.unlink()
        return taken_s

    return await asyncio.gather(*(one(source) for source in files))


async def all_by_ffmpeg(folder: Path, files: list[Path]) -> float:
    """Seconds for one process a file, `AT_ONCE` at a time."""
    program = imageio_ffmpeg.get_ffmpeg_exe()
    places = asyncio.Semaphore(AT_ONCE)

    async def one(source: Path) -> None:
        into = folder / f"{source.name}.wav"
        async with places:
            process = await asyncio.create_subprocess_exec(
                *(program, "-nostdin", "-loglevel", "error", "-threads", "1", "-y"),
                *("-i", str(source), "-ar", "16000", "-ac", "1", str(into)),
            )
            if await process.wait() != 0:
                raise RuntimeError(f"ffmpeg failed with {source}")
        into.unlink()

    began = time.perf_counter()
    await asyncio.gather(*(one(source) for source in files))
    return time.perf_counter() - began


async def in_a_row(folder: Path, files: list[Path]) -> None:
    """Memory of this process and of its children, and what is left, after 5,000 conversions."""
    before = names_in(folder)
    resident: list[float] = []
    began = time.perf_counter()
    async with open_converter(AT_ONCE, AT_ONCE, IN_A_ROW) as converter:
        for _ in range(LOOKS + 1):  # the first tenth warms up
            for _ in range(IN_A_ROW // LOOKS // len(files)):
                await all_at_once(converter, folder, files)
            resident.append(sum(map(resident_mb, [psutil.Process().pid, *converter.pids])))
        done, children = converter.figures().completed, len(converter.pids)
    left = names_in(folder) - before
    say(
        "conversions.in_a_row",
        conversions=done,
        children=children,
        seconds=round(time.perf_counter() - began, 1),
        resident_mb_first=round(resident[0], 1),
        resident_mb_last=round(resident[-1], 1),
        resident_mb_median=round(statistics.median(resident), 1),
        grown_percent=round(100 * (resident[-1] / resident[0] - 1), 2),
        files_left=len(left),
        processes_left=len(psutil.Process().children(recursive=True)),
        limit="grown_percent < 5, nothing left",
    )


def names_in(folder: Path) -> set[str]:
    """The files of the folder."""
    return {path.name for path in folder.iterdir()}
