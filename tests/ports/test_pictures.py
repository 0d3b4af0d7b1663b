"""`PictureDecoder`: decoding in a thread and in child processes promise the same."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import resource
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
import pyvips

from functions._kit.errors import JobFailed, NereidError, Unavailable
from functions._kit.fakes import FakePictureDecoder
from functions._kit.pictures import MAX_PIXELS, decode, letterbox
from functions._kit.ports import PictureDecoder
from gateway.adapters.confined import picture_child
from gateway.adapters.confined.pictures import PICTURES, ProcessPictures, open_pictures

AT_ONCE = 2
LARGE = (2400, 1800)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared() -> AsyncIterator[ProcessPictures]:
    """For tests that harm no child."""
    async with open_pictures(AT_ONCE) as pictures:
        yield pictures


@pytest_asyncio.fixture(loop_scope="module")
async def real() -> AsyncIterator[ProcessPictures]:
    async with open_pictures(AT_ONCE, warm=False) as pictures:
        await pictures.warm()
        yield pictures
        pids = pictures.pids
    assert not any(alive(pid) for pid in pids), "a child is left"


@pytest.fixture(params=["fake", "real"])
def pictures(request: pytest.FixtureRequest) -> PictureDecoder:
    if request.param == "fake":
        return FakePictureDecoder()
    made: PictureDecoder = request.getfixturevalue("shared")
    return made


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A photo in several kinds, and files that are none."""
    folder = tmp_path_factory.mktemp("pictures")
    photo = pyvips.Image.new_from_file(
        str(Path(__file__).parents[1] / "data" / "pictures" / "chelsea.png")
    )
    photo.jpegsave(str(folder / "photo.jpg"), Q=90)
    turned = photo.copy()
    turned.set_type(pyvips.GValue.gint_type, "orientation", 6)
    turned.jpegsave(str(folder / "turned.jpg"), Q=90)
    seen = photo.bandjoin(pyvips.Image.xyz(photo.width, photo.height)[0].cast("uchar"))
    seen.copy(interpretation="srgb").pngsave(str(folder / "alpha.png"))
    (photo.cast("ushort") * 257).copy(interpretation="rgb16").pngsave(str(folder / "deep.png"))
    photo.resize(LARGE[0] / photo.width).jpegsave(str(folder / "large.jpg"), interlace=True)
    whole = (folder / "photo.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "words.jpg").write_bytes(b"not a picture\n" * 50)
    photo.crop(0, 0, 8, 8).pngsave(str(folder / "tiny.png"))
    return folder


pytestmark = pytest.mark.asyncio(loop_scope="module")


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def environment(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()


def status(pid: int) -> str:
    return Path(f"/proc/{pid}/status").read_text()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.002)


@pytest.mark.parametrize("name", ["photo.jpg", "turned.jpg", "alpha.png", "deep.png"])
async def test_a_picture_is_what_the_function_makes_of_it(
    pictures: PictureDecoder, files: Path, tmp_path: Path, name: str
) -> None:
    picture = await pictures.decode(files / name, tmp_path / "pixels", max_pixels=MAX_PIXELS)
    expected = decode(files / name)
    np.testing.assert_array_equal(picture.pixels, expected.pixels)
    assert picture.pixels.dtype == expected.pixels.dtype
    assert (picture.alpha is None) == (expected.alpha is None)
    if expected.alpha is not None:
        np.testing.assert_array_equal(picture.alpha, expected.alpha)
    assert picture.metadata == expected.metadata
    assert picture.info == expected.info
    assert await pictures.probe(files / name, max_pixels=MAX_PIXELS) == expected.info
    assert (picture.grey, picture.had_alpha) == (expected.grey, expected.had_alpha)


async def test_a_frame_is_fitted_and_a_photo_reduced(
    pictures: PictureDecoder, files: Path, tmp_path: Path
) -> None:
    data = (files / "turned.jpg").read_bytes()
    box = await pictures.letterbox(
        data, width=320, height=320, multiple_of=32, max_pixels=MAX_PIXELS
    )
    expected = letterbox(data, width=320, height=320, multiple_of=32)
    np.testing.assert_array_equal(box.pixels, expected.pixels)
    assert (box.inner_width, box.inner_height) == (expected.inner_width, expected.inner_height)
    written = await pictures.thumbnail(
        files / "photo.jpg", tmp_path / "small", longest_side=64, max_pixels=MAX_PIXELS
    )
    assert max(written.width, written.height) == 64
    assert written.size == (tmp_path / "small").stat().st_size


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("cut.jpg", "corrupt_picture"),
        ("words.jpg", "unsupported_media_type"),
        ("large.jpg", "picture_too_large"),
    ],
)
async def test_a_bad_file_is_refused_and_nothing_is_left(
    pictures: PictureDecoder, files: Path, tmp_path: Path, name: str, code: str
) -> None:
    limit = 1_000_000
    into = tmp_path / "out"
    for work in (
        pictures.decode(files / name, into, max_pixels=limit),
        pictures.thumbnail(files / name, into, longest_side=64, max_pixels=limit),
        pictures.letterbox(
            (files / name).read_bytes(), width=64, height=64, multiple_of=0, max_pixels=limit
        ),
    ):
        with pytest.raises(NereidError) as refused:
            await work
        assert refused.value.code == code
        assert not into.exists()


async def test_what_is_too_small_to_see_is_refused_and_a_missing_file_is_our_fault(
    pictures: PictureDecoder, files: Path, tmp_path: Path
) -> None:
    with pytest.raises(NereidError) as refused:
        await pictures.letterbox(
            (files / "tiny.png").read_bytes(), width=64, height=64, multiple_of=0, max_pixels=1000
        )
    assert refused.value.code == "picture_too_small"
    with pytest.raises(FileNotFoundError):
        await pictures.decode(tmp_path / "none", tmp_path / "out", max_pixels=1000)


async def test_many_at_once_take_turns_and_get_each_their_own(
    pictures: PictureDecoder, files: Path
) -> None:
    frames = [(files / name).read_bytes() for name in ("photo.jpg", "turned.jpg")]
    boxes = await asyncio.gather(
        *(
            pictures.letterbox(
                frames[n % 2], width=64, height=64, multiple_of=0, max_pixels=MAX_PIXELS
            )
            for n in range(12)
        )
    )
    expected = [letterbox(frame, width=64, height=64).pixels for frame in frames]
    for n, box in enumerate(boxes):
        np.testing.assert_array_equal(box.pixels, expected[n % 2])


async def test_a_child_has_limits_and_no_secrets(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEREID_TOKEN_SECRET", "not for strangers' files")
    async with open_pictures(AT_ONCE, warm=False) as pictures:
        await pictures.probe(files / "photo.jpg", max_pixels=MAX_PIXELS)
        (pid,) = pictures.pids
        assert b"NEREID" not in environment(pid)
        memory, _ = resource.prlimit(pid, resource.RLIMIT_AS)
        assert picture_child.HEADER_BYTES < memory < 4 << 30
        assert resource.prlimit(pid, resource.RLIMIT_CPU)[0] < 60
        assert resource.prlimit(pid, resource.RLIMIT_CORE) == (0, 0)
        assert resource.prlimit(pid, resource.RLIMIT_NOFILE)[0] <= 64
        assert "NoNewPrivs:\t1" in status(pid)


async def test_a_child_that_is_killed_costs_nobody_anything(
    real: ProcessPictures, files: Path, tmp_path: Path
) -> None:
    (pid,) = real.pids
    os.kill(pid, signal.SIGSTOP)
    task = begin(real, files, tmp_path)
    await settled(real)
    os.kill(pid, signal.SIGKILL)
    assert (await task).info.width == LARGE[0]
    assert pid not in real.pids


def begin(pictures: ProcessPictures, files: Path, tmp_path: Path) -> asyncio.Task[Any]:
    return asyncio.create_task(
        pictures.decode(files / "large.jpg", tmp_path / "out", max_pixels=MAX_PIXELS)
    )


async def settled(pictures: ProcessPictures) -> None:
    """Wait until no child idles, so that the work is in one's hands."""
    await until(lambda: not pictures._children._idle)


async def test_a_file_that_kills_two_children_is_blamed(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mortal = dataclasses.replace(PICTURES, module="tests_mortal_child")
    deaths = tmp_path / "deaths"
    (tmp_path / "tests_mortal_child.py").write_text(
        "import os, signal\n"
        "from gateway.adapters.confined import picture_child\n"
        "decode = picture_child.decode\n"
        "def dying(source, **how):\n"
        "    picture = decode(source, **how)\n"
        "    if source.name == 'large.jpg':\n"
        f"        with open({str(deaths)!r}, 'a') as file:\n"
        "            file.write('x')\n"
        "        os.kill(os.getpid(), signal.SIGSEGV)\n"
        "    return picture\n"
        "picture_child.decode = dying\n"
        "picture_child.main()\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    into = tmp_path / "out"
    async with open_pictures(AT_ONCE, warm=False, kind=mortal) as pictures:
        with pytest.raises(JobFailed) as blamed:
            await pictures.decode(files / "large.jpg", into, max_pixels=MAX_PIXELS)
        assert blamed.value.code == "picture_crashed"
        assert deaths.read_text() == "xx"
        assert not into.exists()
        picture = await pictures.decode(files / "photo.jpg", into, max_pixels=MAX_PIXELS)
        assert picture.info.format == "jpeg"


async def test_a_picture_that_takes_too_much_memory_is_refused(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frugal = dataclasses.replace(PICTURES, module="tests_frugal_child")
    (tmp_path / "tests_frugal_child.py").write_text(
        "from gateway.adapters.confined import picture_child\n"
        "picture_child.HEADER_BYTES = 12 << 20\n"
        "picture_child.PIXEL_BYTES = 0\n"
        "picture_child.main()\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    async with open_pictures(AT_ONCE, warm=False, kind=frugal) as pictures:
        for _ in range(2):
            with pytest.raises(JobFailed) as refused:
                await pictures.decode(files / "large.jpg", tmp_path / "out", max_pixels=MAX_PIXELS)
            assert refused.value.code in {"picture_too_costly", "picture_crashed"}
            assert not (tmp_path / "out").exists()


async def test_a_picture_that_takes_too_much_time_is_refused(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hasty = dataclasses.replace(PICTURES, module="tests_hasty_child")
    (tmp_path / "tests_hasty_child.py").write_text(
        "from gateway.adapters.confined import picture_child\n"
        "def endless(*_, **__):\n"
        "    while True: pass\n"
        "picture_child.HEADER_S, picture_child.PIXEL_S = 0.0, 0.0\n"
        "picture_child.probe = endless\n"
        "picture_child.main()\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    async with open_pictures(AT_ONCE, warm=False, kind=hasty) as pictures:
        with pytest.raises(JobFailed) as refused:
            await pictures.probe(files / "photo.jpg", max_pixels=MAX_PIXELS)
        assert refused.value.code == "picture_too_costly"


@pytest.mark.parametrize(
    ("ending", "code"),
    [("os.kill(os.getpid(), 9)", "decoder_unavailable"), ("os._exit(3)", "picture_crashed")],
)
async def test_a_file_is_not_blamed_for_children_that_the_system_kills(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, code: str
) -> None:
    """As the kernel does when memory is short."""
    dying = dataclasses.replace(PICTURES, module="tests_dying_child")
    (tmp_path / "tests_dying_child.py").write_text(
        "import os\n"
        "from gateway.adapters.confined import picture_child\n"
        f"picture_child.probe = lambda *_, **__: {ending}\n"
        "picture_child.main()\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    async with open_pictures(AT_ONCE, warm=False, kind=dying) as pictures:
        with pytest.raises((JobFailed, Unavailable)) as told:
            await pictures.probe(files / "photo.jpg", max_pixels=MAX_PIXELS)
    assert told.value.code == code


async def test_who_goes_away_frees_the_place(
    real: ProcessPictures, files: Path, tmp_path: Path
) -> None:
    (pid,) = real.pids
    os.kill(pid, signal.SIGSTOP)  # it will not hear that it shall stop, and be killed
    task = begin(real, files, tmp_path)
    await settled(real)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    assert not alive(pid)
    assert not (tmp_path / "out").exists()
    assert (await begin(real, files, tmp_path)).info.width == LARGE[0]


async def test_a_photo_in_work_leaves_a_place_to_frames(
    real: ProcessPictures, files: Path, tmp_path: Path
) -> None:
    (pid,) = real.pids
    os.kill(pid, signal.SIGSTOP)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    photos = [begin(real, files, tmp_path / name) for name in ("a", "b")]
    await settled(real)
    info = await real.probe(files / "photo.jpg", max_pixels=MAX_PIXELS)
    assert info.format == "jpeg"
    assert not any(photo.done() for photo in photos)
    os.kill(pid, signal.SIGCONT)
    assert all(photo.info.width == LARGE[0] for photo in await asyncio.gather(*photos))
