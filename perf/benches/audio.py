"""`just bench audio`: fifty users at once, over HTTP, on the whole system."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import httpx
import imageio_ffmpeg
import psutil
from benches.conversions import AT_ONCE, CLIENTS, all_by_ffmpeg
from benches.voices import voices
from measure import PEERS, Engine, part_of, ratio, row, say, system

CLIP_S, MINUTE_S, LONG_S, SHORT_S = 10.0, 60.0, 300.0, 3.0
LOOK_S = 1.0
"""How often memory is looked at."""
POLL_S = 0.2


async def audio(options: argparse.Namespace) -> None:
    """Conversions and transcriptions of fifty clients; a short clip behind fifty long ones."""
    with tempfile.TemporaryDirectory(prefix="nereid-bench-") as name:
        folder = Path(name)
        clips, minutes, longs = [
            await asyncio.to_thread(voices, folder, seconds, CLIENTS)
            for seconds in (CLIP_S, MINUTE_S, LONG_S)
        ]
        shorts = await asyncio.to_thread(voices, folder, SHORT_S, 10)
        engine = Engine([sys.executable, str(PEERS / "bare_transcribe.py"), name])
        # each run converts anew: what was converted before must not count
        async with system(folder, audio_cache_lifetime_s=0) as (_, http):
            bench = Bench(http, folder, options.runs)
            watching = asyncio.create_task(bench.watch_memory())
            await bench.warm_up(clips)
            await bench.conversions(clips, minutes)
            await bench.transcriptions(clips, engine)
            await bench.short_behind_long(longs, shorts)
            watching.cancel()
    say(
        "audio.memory",
        peak_mb=round(sum(bench.peak.values())),
        peak_by_part_mb={part: round(mb) for part, mb in sorted(bench.peak.items())},
        limit="peak_mb < 1500: proportional set sizes of all processes together",
    )


class Bench:
    """The system, and what was found of its memory."""

    def __init__(self, http: httpx.AsyncClient, folder: Path, runs: int) -> None:
        self.http = http
        self.folder = folder
        self.runs = runs
        self.peak: Counter[str] = Counter()

    async def warm_up(self, clips: list[Path]) -> None:
        """Load the models, start the converters, open the connections."""
        await self.convert(clips)
        await self.translate(clips[:4])

    async def conversions(self, clips: list[Path], minutes: list[Path]) -> None:
        """Clips of 10 s; files of a minute turn about with one ffmpeg process each."""
        facts = {"clients": CLIENTS, "runs": self.runs}
        answers: list[float] = []
        for _ in range(self.runs):
            answers += await self.convert(clips)
        row("audio.convert", answers, seconds_each=CLIP_S, limit="most_s < 2", **facts)
        ours: list[float] = []
        theirs: list[float] = []
        for _ in range(self.runs):
            ours.append(max(await self.convert(minutes)))
            theirs.append(await all_by_ffmpeg(self.folder, minutes))
        facts["seconds_each"] = MINUTE_S
        row("audio.convert.all", ours, **facts)
        version = imageio_ffmpeg.get_ffmpeg_version()
        row("audio.convert.all_by_ffmpeg", theirs, peer=version, at_once=AT_ONCE, **facts)
        say("audio.convert.times_ffmpeg", times=round(ratio(theirs, ours), 2), limit=">= 1.2")

    async def transcriptions(self, clips: list[Path], engine: Engine) -> None:
        """All clips at once, turn about with the bare engine."""
        facts = {"clients": CLIENTS, "seconds_each": CLIP_S, "runs": self.runs}
        answers: list[float] = []
        ours: list[float] = []
        theirs: list[float] = []
        for _ in range(self.runs):
            times = await self.translate(clips)
            answers += times
            ours.append(max(times))
            theirs.append(await engine.run())
        row("audio.transcribe", answers, limit="p95_s < 10", **facts)
        row("audio.transcribe.all", ours, limit=f"most_s < {CLIENTS * CLIP_S:g}", **facts)
        row("audio.transcribe.engine", theirs, **engine.facts, **facts)
        say("audio.transcribe.ratio", engine_over_path=round(ratio(theirs, ours), 3))

    async def short_behind_long(self, longs: list[Path], shorts: list[Path]) -> None:
        """Fifty files of five minutes; short clips, one by one, while they are worked on.

        The first short clip is sent right after the last long one.
        """
        began = time.perf_counter()
        sending = [asyncio.create_task(self.post_translate(file)) for file in longs]
        await asyncio.sleep(0)  # their requests go out first
        first = await self.seconds_of(shorts[0])
        accepted = [answer.json()["task_id"] for answer in await asyncio.gather(*sending)]
        accepted_s = time.perf_counter() - began
        later = [await self.seconds_of(file) for file in shorts[1:]]
        facts = {"long_files": len(longs), "long_s": LONG_S, "short_s": SHORT_S}
        row("audio.short_with_long", [first], limit="most_s < 2", **facts)
        row("audio.short_behind_long", later, limit="most_s < 2", **facts)
        await self.until_done(accepted)
        seconds = time.perf_counter() - began
        sound = len(longs) * LONG_S
        say(
            "audio.long",
            accepted_s=round(accepted_s, 2),
            done_s=round(seconds, 1),
            times_real_time=round(sound / seconds, 1),
            **facts,
        )

    async def convert(self, files: list[Path]) -> list[float]:
        """All files at once; seconds until each is answered."""

        async def one(file: Path) -> float:
            body = file.read_bytes()
            began = time.perf_counter()
            answer = await self.http.post("/api/v1/audio:convert", content=body)
            answer.raise_for_status()
            return time.perf_counter() - began

        return await asyncio.gather(*map(one, files))

    async def translate(self, files: list[Path]) -> list[float]:
        """All files at once; seconds until each is answered."""
        return await asyncio.gather(*map(self.seconds_of, files))

    async def seconds_of(self, file: Path) -> float:
        """Seconds until the words of one recording are there."""
        began = time.perf_counter()
        answer = await self.post_translate(file)
        if answer.status_code != 200 or not answer.json()["transcription"]:
            raise RuntimeError(answer.text)
        return time.perf_counter() - began

    async def post_translate(self, file: Path) -> httpx.Response:
        """Send a recording."""
        files = {"audio_file": (file.name, file.read_bytes())}
        answer = await self.http.post("/api/v1/translate_audio", files=files)
        return answer.raise_for_status()

    async def until_done(self, task_ids: list[str]) -> None:
        """Wait for tasks. Raises RuntimeError where one fails."""
        for task_id in task_ids:
            while True:
                answer = await self.http.get(f"/api/v1/media/processingTasks/{task_id}")
                status = answer.raise_for_status().json()["status"]
                if status == "completed":
                    break
                if status not in {"queued", "processing"}:
                    raise RuntimeError(answer.text)
                await asyncio.sleep(POLL_S)

    async def watch_memory(self) -> None:
        """Keep the highest sum of all parts, for ever."""
        while True:
            now: Counter[str] = Counter()
            for process in psutil.Process().children(recursive=True):
                with suppress(psutil.Error):
                    if part := part_of(process):
                        pss = await asyncio.to_thread(process.memory_full_info)
                        now[part] += pss.pss / (1 << 20)
            if sum(now.values()) > sum(self.peak.values()):
                self.peak = now
            await asyncio.sleep(LOOK_S)
