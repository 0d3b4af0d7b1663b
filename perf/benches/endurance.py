"""`just bench endurance`: hours of everything at once, at the machine's limit, in minutes.

Photos, frames, recordings, conversions, uploads, queries, followers, token requests and
cancellations go to a `nereid up` of its own, more of them than the cores can do, while another
process asks for tasks' status at a fixed rate and this one looks at every process's memory.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import wave
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import psutil
import pyvips
from benches.photos import make_photo
from benches.voices import RATE, STEP, read_recording
from loading.target import CLIENT, Target, own_system
from measure import say
from mixed import generator, probe
from mixed.beside import MEASURER, SENDER, beside
from mixed.figures import (
    Limit,
    Timed,
    by_minute,
    limits_table,
    none_of,
    slope_percent,
    spread_ms,
    table,
)
from mixed.memory import EVERY_S, TOGETHER, Memory

from gateway.settings import CHECKOUT

MIXED = Path(generator.__file__).parent
ASKED_PER_S = 20.0
WARM_UP_SHARE = 0.2
"""Of the whole time: models are loaded, pools and caches filled, first collections made."""
P99_MS, SLOPE_PERCENT = 50.0, 1.0
SIZES = [(320, 240), (480, 320), (640, 360), (320, 180)]
"""Photos; each takes a core a second or less, so that hours' worth of tasks go through."""
FRAMES, FRAME_SIZE = 8, (1280, 720)
CLIPS, CLIP_S, CLIP_RATE = 10, 6.0, 16_000


async def endurance(options: argparse.Namespace) -> None:
    """Run it, say what was found, end with 1 where a limit was missed."""
    seconds = 60.0 * options.minutes
    with tempfile.TemporaryDirectory(prefix="nereid-bench-") as name:
        folder = Path(name)
        sent = folder / "sent"
        await asyncio.to_thread(make_material, sent)
        with own_system(folder) as target:
            sending, asking, memory, busy = await measure(target, sent, seconds)
    limits = judge(sending, asking, memory, seconds * WARM_UP_SHARE)
    facts = {
        "minutes": options.minutes,
        "warm_up_minutes": round(options.minutes * WARM_UP_SHARE, 2),
        "status_queries_per_s": ASKED_PER_S,
        "cores": busy,
    }
    tell(sending, asking, memory, limits, facts)
    if not all(limit.met for limit in limits):
        sys.exit(1)


async def measure(
    target: Target, sent: Path, seconds: float
) -> tuple[generator.Report, probe.Report, Memory, dict[str, Any]]:
    """The load, the questions, memory, and who had the cores how long."""
    order = generator.Order(
        url=target.url,
        key=target.key,
        client_id=CLIENT,
        secret=target.secret,
        folder=str(sent),
        seconds=seconds,
    )
    question = probe.Order(
        url=target.url, token=await bearer(target), per_s=ASKED_PER_S, seconds=seconds
    )
    memory = Memory(target.pid)
    async with (
        beside(MIXED / "generator.py", order, generator.Report, nice=SENDER) as sending,
        beside(MIXED / "probe.py", question, probe.Report, nice=MEASURER) as asking,
    ):
        psutil.cpu_percent()
        watching = asyncio.create_task(memory.watch())
        finished, _ = await asyncio.wait({sending, asking, watching}, return_when="FIRST_COMPLETED")
        if asking not in finished:  # somebody else has failed
            (failed,) = finished
            failed.result()
        asked = await asking
        watching.cancel()  # what comes now is no load any more
        busy = {"all_cores": round(psutil.cpu_percent() / 100, 3), "cpu_s": memory.cpu_seconds()}
        return await sending, asked, memory, busy


def judge(
    sending: generator.Report, asking: probe.Report, memory: Memory, warm_up_s: float
) -> list[Limit]:
    """Every limit with what was measured."""
    answers = after(asking.answers, warm_up_s)
    minutes = by_minute((at - warm_up_s, seconds) for at, seconds in answers)
    worst = max((minute["p99_ms"] for minute in minutes), default=float("nan"))
    whole = spread_ms(seconds for _, seconds in answers).get("p99_ms", float("nan"))
    lost = sending.accepted - sum(sending.states.get(s, 0) for s in ("completed", "cancelled"))
    errors = sum(sending.errors.values()) + sum(asking.errors.values())
    slopes = {part: after(found, warm_up_s) for part, found in memory.samples.items()}
    return [
        Limit(what="status query, p99 of the worst minute", measured=worst, most=P99_MS, unit="ms"),
        Limit(what="status query, p99 of all", measured=whole, most=P99_MS, unit="ms"),
        none_of("errors apart from 429", errors),
        none_of("accepted tasks neither completed nor cancelled", lost),
        *(
            Limit(
                what=f"memory of {part}",
                measured=slope_percent(found),
                most=SLOPE_PERCENT,
                unit="% a minute",
            )
            for part, found in sorted(slopes.items())
            if len(found) > len(slopes[TOGETHER]) / 2  # others were there for a while only
        ),
    ]


def after(timed: list[Timed], warm_up_s: float) -> list[Timed]:
    """What was measured after the warm-up."""
    return [one for one in timed if one[0] >= warm_up_s]


def tell(
    sending: generator.Report,
    asking: probe.Report,
    memory: Memory,
    limits: list[Limit],
    facts: dict[str, Any],
) -> None:
    """Rows, and the same as tables."""
    warm_up_s = 60.0 * facts["warm_up_minutes"]
    answers = after(asking.answers, warm_up_s)
    minutes = by_minute((at - warm_up_s, seconds) for at, seconds in answers)
    say(
        "endurance.status",
        all=spread_ms(seconds for _, seconds in answers),
        by_minute=minutes,
        sent_late=spread_ms(asking.sent_late),
        errors=asking.errors,
        probe_cpu_s=asking.cpu_s,
        probe_nice=MEASURER,
        **facts,
    )
    say(
        "endurance.work",
        done=sending.done,
        refused=sending.refused,
        errors=sending.errors,
        took=sending.spread_ms,
        accepted=sending.accepted,
        states=sending.states,
        generator_cpu_s=sending.cpu_s,
        **facts,
    )
    parts = []
    for part, found in sorted(memory.samples.items()):
        warm, files = after(found, warm_up_s), memory.files[part]
        first, last = (warm or found)[0][1], found[-1][1]
        most, slope = max(mb for _, mb in found), slope_percent(warm)
        parts.append((part, first, last, most, slope, files[0], files[-1]))
    heads = (
        "part",
        "warm_mb",
        "last_mb",
        "most_mb",
        "percent_a_minute",
        "files_first",
        "files_last",
    )
    say(
        "endurance.memory",
        parts=[
            {
                head: round(cell, 3) if isinstance(cell, float) else cell
                for head, cell in zip(heads, part, strict=True)
            }
            for part in parts
        ],
        samples_mb={
            part: [[round(at), round(mb, 1)] for at, mb in found]
            for part, found in memory.samples.items()
        },
        sampled=f"PSS every {EVERY_S:g} s; slope by Theil and Sen, % of the median a minute",
        **facts,
    )
    say("endurance.limits", limits=[limit.facts() for limit in limits], **facts)
    print(f"\n{table(('minute', 'count', 'p50_ms', 'p99_ms', 'most_ms'), _minutes(minutes))}")
    print(f"\n{table(heads, parts)}")
    done = [
        (
            kind,
            count,
            *(sending.spread_ms.get(kind, {}).get(f"{p}_ms", "") for p in ("p50", "p99", "most")),
        )
        for kind, count in sorted(sending.done.items())
    ]
    print(f"\n{table(('done', 'count', 'p50_ms', 'p99_ms', 'most_ms'), done)}")
    print(f"\ntold to come back later: {sending.refused or 'never'}")
    print(f"errors: {sending.errors | asking.errors or 'none'}")
    print(f"\n{limits_table(limits)}", flush=True)


def _minutes(minutes: list[dict[str, float]]) -> list[tuple[object, ...]]:
    names = ("minute", "count", "p50_ms", "p99_ms", "most_ms")
    return [tuple(minute[name] for name in names) for minute in minutes]


async def bearer(target: Target) -> str:
    """A token of the load's client."""
    credentials = {"client_id": CLIENT, "client_secret": target.secret}
    async with (
        aiohttp.ClientSession(target.url) as http,
        http.post(
            "/api/v1/auth/token", json=credentials | {"grant_type": "client_credentials"}
        ) as answer,
    ):
        answer.raise_for_status()
        return str((await answer.json())["access_token"])


def make_material(folder: Path) -> None:
    """Photos, frames with something to see, and clips of a voice, as files."""
    folder.mkdir()
    for width, height in SIZES:
        made = make_photo(folder, width, height)
        made.rename(folder / f"{made.stem}.photo.jpg")
    background = pyvips.Image.new_from_file(str(CHECKOUT / "tests/data/detection/coffee.jpg"))
    background = background.thumbnail_image(
        FRAME_SIZE[0], height=FRAME_SIZE[1], crop="centre"
    ).copy_memory()
    person = pyvips.Image.new_from_file(str(CHECKOUT / "tests/data/detection/astronaut.jpg"))
    for n in range(FRAMES):
        left = (FRAME_SIZE[0] - person.width) * n // FRAMES
        background.insert(person, left, FRAME_SIZE[1] - person.height).jpegsave(
            str(folder / f"{n:02}.frame.jpg"), Q=85
        )
    samples = read_recording()[:: RATE // CLIP_RATE]
    for n in range(CLIPS):
        clip = np.take(samples, np.arange(int(CLIP_S * CLIP_RATE)) + n * STEP, mode="wrap")
        with wave.open(str(folder / f"{n:02}.wav"), "wb") as out:
            out.setnchannels(1)
            out.setsampwidth(2)
            out.setframerate(CLIP_RATE)
            out.writeframes(clip.tobytes())
