"""Damaged files through the confined children: a picture, a sound, or a documented refusal.

A few hundred files of a fixed seed; as long as is asked for by `just fuzz`.
"""

from __future__ import annotations

import itertools
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from functions._kit.errors import NereidError
from functions._kit.ports import SPEECH
from gateway.adapters.confined.converter import ProcessConverter, open_converter
from gateway.adapters.confined.pictures import ProcessPictures, open_pictures
from tests.fuzz.asked import FINDINGS, MINUTES, seed
from tests.fuzz.mutate import mutated
from tests.fuzz.samples import bombs, pictures, sounds

SEED = seed(7)
EACH = 5
"""Damaged files of each good one in a round; the short run has two."""
MAX_PIXELS = 4_000_000
GROWTH_BYTES = 96 << 20
"""What this process may grow by: buffers, and the allocator's slack."""

PICTURE_CODES = {
    "corrupt_picture",
    "unsupported_media_type",
    "picture_too_large",
    "animated_picture",
    "multiple_pages",
    "unsupported_pixel_format",
    "picture_too_small",
    "picture_crashed",
    "picture_too_costly",
}
SOUND_CODES = {"unsupported_audio", "undecodable_audio", "no_sound", "audio_too_long"}

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(MINUTES * 60 + 300),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def decoder() -> AsyncIterator[ProcessPictures]:
    async with open_pictures(2) as opened:
        yield opened


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def converter() -> AsyncIterator[ProcessConverter]:
    async with open_converter(2, 2, 8) as opened:
        yield opened


def resident() -> int:
    """Bytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - as few objects as can be


def damaged(good: dict[str, bytes], rng: random.Random) -> list[tuple[str, bytes]]:
    """A round: some damaged files of each good one."""
    others = list(good.values())
    return [(name, mutated(data, others, rng)) for name, data in good.items() for _ in range(EACH)]


async def endure(
    good: dict[str, bytes],
    use: Callable[[bytes], Awaitable[None]],
    codes: set[str],
    extra: dict[str, bytes],
) -> Counter[str]:
    """Use damaged files until the time is over; how each ended. Fails on what is not documented.

    Two rounds at least: what the first takes is kept, and what more the others take is a leak.
    """
    rng = random.Random(SEED)
    ends: Counter[str] = Counter()
    found: list[str] = []
    deadline = time.monotonic() + MINUTES * 30  # pictures and sounds have half each
    round_of = [*extra.items(), *damaged(good, rng)]
    memory, files = 0, 0
    for number in itertools.count():
        for name, data in round_of:
            try:
                await use(data)
                ends["decoded"] += 1
            except NereidError as error:
                ends[error.code] += 1
                if error.code not in codes:
                    found.append(kept(name, data, repr(error)))
            except Exception as error:  # noqa: BLE001 - whatever it is, it is not documented
                found.append(kept(name, data, repr(error)))
        if number == 0:
            memory, files = resident(), open_files()
        elif time.monotonic() >= deadline:
            break
        round_of = damaged(good, rng)
    print(f"seed {SEED}: {sum(ends.values())} files, {dict(ends)}")  # noqa: T201 - for `just fuzz`
    assert not found, "\n".join(found)
    assert resident() < memory + GROWTH_BYTES
    assert open_files() <= files + 8  # a child more
    return ends


def kept(name: str, data: bytes, why: str) -> str:
    """The finding in a line; its file is kept where it is asked for."""
    if FINDINGS is None:
        return f"{name}: {why}"
    FINDINGS.mkdir(parents=True, exist_ok=True)
    path = FINDINGS / f"{name.replace(' ', '-')}-{SEED}-{random.randbytes(4).hex()}"
    path.write_bytes(data)
    return f"{path}: {why}"


async def test_pictures(decoder: ProcessPictures, tmp_path: Path) -> None:
    source, into = tmp_path / "source", tmp_path / "into"

    async def use(data: bytes) -> None:
        source.write_bytes(data)
        try:
            info = await decoder.probe(source, max_pixels=MAX_PIXELS)
            picture = await decoder.decode(source, into, max_pixels=MAX_PIXELS)
            assert picture.pixels.shape == (info.height, info.width, 3)
            small = await decoder.thumbnail(
                source, tmp_path / "small", longest_side=16, max_pixels=MAX_PIXELS
            )
            assert max(small.width, small.height) <= 16
            box = await decoder.letterbox(
                data, width=64, height=64, multiple_of=0, max_pixels=MAX_PIXELS
            )
            assert box.pixels.shape == (64, 64, 3)
        finally:
            into.unlink(missing_ok=True)

    good = pictures()
    for name, data in good.items():
        if not name.endswith("-film"):
            await use(data)
    ends = await endure(good, use, PICTURE_CODES, bombs())
    assert ends["decoded"]
    assert ends["corrupt_picture"]
    for name, data in good.items():
        if not name.endswith("-film"):
            await use(data)


async def test_sounds(converter: ProcessConverter, tmp_path: Path) -> None:
    source, into = tmp_path / "source", tmp_path / "into"

    async def use(data: bytes) -> None:
        source.write_bytes(data)
        try:
            sound = await converter.convert(source, into, SPEECH, longest_s=600)
            assert sound.size_bytes == into.stat().st_size
        finally:
            into.unlink(missing_ok=True)

    good = sounds()
    for data in good.values():
        await use(data)
    ends = await endure(good, use, SOUND_CODES, {})
    assert ends["decoded"]
    assert ends["undecodable_audio"]
    for data in good.values():
        await use(data)
