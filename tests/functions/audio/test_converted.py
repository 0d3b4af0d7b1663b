"""Conversions are made once, whoever asks, and lie in the bucket for a while."""

from __future__ import annotations

import asyncio
import hashlib
import io
import wave
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from functions._kit.errors import RequestError, Unavailable
from functions._kit.fakes import FakeAudioConverter, FakeObjects
from functions._kit.in_flight import InFlight
from functions._kit.messages import now
from functions._kit.ports import AUDIO_TYPES, SPEECH, AudioTarget, Limits, ObjectInfo, Sound
from functions.audio import _converted as module
from functions.audio._converted import Converted, convert_once, url_of
from functions.audio._durations import duration_of
from functions.audio.contracts import converted_key

DAY_S = 24 * 3600
TARGETS = [
    SPEECH,
    AudioTarget(format="wav", sample_rate=48_000, channels=2),
    AudioTarget(format="flac", sample_rate=16_000, channels=1),
    AudioTarget(format="flac", sample_rate=44_100, channels=2),
    *(AudioTarget(format="mp3", sample_rate=r, channels=c) for r in (8000, 22_050, 48_000)
      for c in (1, 2)),
]  # fmt: skip


def tone(duration_s: float = 0.5, hz: float = 440.0) -> bytes:
    """A WAV of 16 kHz with a sine."""
    moments = np.arange(round(duration_s * 16_000)) / 16_000
    samples = (np.sin(2 * np.pi * hz * moments) * 8000).astype("<i2")
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(samples.tobytes())
    return content.getvalue()


class HeldConverter(FakeAudioConverter):
    """Begins when it may."""

    def __init__(self) -> None:
        super().__init__()
        self.may_begin = asyncio.Event()
        self.may_begin.set()
        self.asked = asyncio.Event()
        self.began = 0

    async def convert(
        self, source: Path, into: Path, target: AudioTarget, *, longest_s: float
    ) -> Sound:
        self.asked.set()
        await self.may_begin.wait()
        self.began += 1
        return await super().convert(source, into, target, longest_s=longest_s)


class Place:
    """A process's part: its scratch folder, its callers, and the bucket that all share."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.objects: Any = FakeObjects()
        self.converter = HeldConverter()
        self.in_flight = InFlight(scratch)
        self.limits = Limits(
            max_upload_bytes=1 << 20,
            max_pixels=1,
            allow_private_callbacks=False,
            webhook_secret=b"",
        )
        self._callers = 0

    async def convert(
        self,
        content: bytes,
        target: AudioTarget = SPEECH,
        *,
        longest_s: float = 60.0,
        stored: bool = False,
    ) -> tuple[Converted, bytes]:
        """As a caller does, in a folder of its own that it leaves at the end."""
        self._callers += 1
        folder = self.scratch / f"caller-{self._callers}"
        folder.mkdir()
        source, into = folder / "source", folder / "into"
        source.write_bytes(content)
        try:
            converted = await convert_once(
                source,
                hashlib.sha256(content).hexdigest(),
                into,
                target,
                converter=self.converter,
                objects=self.objects,
                in_flight=self.in_flight,
                limits=self.limits,
                longest_s=longest_s,
                stored=stored,
            )
            assert into.stat().st_size == converted.size_bytes
            return converted, into.read_bytes()
        finally:
            for file in folder.iterdir():
                file.unlink()
            folder.rmdir()

    def left(self) -> list[str]:
        return [path.name for path in self.scratch.iterdir()]

    def age(self, key: str, age_s: float) -> None:
        self.objects.modified_at[key] = now() - timedelta(seconds=age_s)


@pytest_asyncio.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    """At its end, nothing is left in the scratch folder."""
    place = Place(tmp_path)
    yield place
    await place.in_flight.finish()
    assert place.left() == []


def key_of(content: bytes, target: AudioTarget = SPEECH) -> str:
    return converted_key(hashlib.sha256(content).hexdigest(), target)


async def test_the_second_time_it_comes_from_the_bucket(place: Place) -> None:
    content = tone()
    first, made = await place.convert(content)
    await place.in_flight.finish()
    second, again = await place.convert(content)
    assert (first.cached, second.cached) == (False, True)
    assert made == again == place.objects.contents[key_of(content)]
    assert first.duration_s == second.duration_s == 0.5
    assert first.key == second.key == key_of(content)
    assert place.converter.figures().completed == 1
    info = await place.objects.head(first.key)
    assert info.content_type == "audio/wav"


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
async def test_a_cached_sound_is_known_to_last_as_long_as_a_new_one(
    place: Place, target: AudioTarget
) -> None:
    content = tone(1.2345)
    first, _ = await place.convert(content, target, stored=True)
    second, _ = await place.convert(content, target)
    assert (first.cached, second.cached) == (False, True)
    assert second.duration_s == pytest.approx(first.duration_s, abs=1e-9)
    assert second.duration_s == pytest.approx(1.2345, abs=0.06)


async def test_other_bytes_and_other_targets_are_other_conversions(place: Place) -> None:
    for content in (tone(hz=440), tone(hz=880)):
        for target in TARGETS[:3]:
            converted, _ = await place.convert(content, target, stored=True)
            assert not converted.cached
    assert len(place.objects.contents) == place.converter.figures().completed == 6


async def test_at_the_same_time_it_is_made_once_for_all(place: Place) -> None:
    content = tone()
    place.converter.may_begin.clear()
    callers = [asyncio.create_task(place.convert(content)) for _ in range(20)]
    await place.converter.asked.wait()
    place.converter.may_begin.set()
    found = await asyncio.gather(*callers)
    assert len({made for _, made in found}) == 1
    assert sorted(converted.cached for converted, _ in found) == [False] + [True] * 19
    assert place.converter.began == 1


async def test_it_goes_on_for_others_when_the_first_leaves(place: Place) -> None:
    content = tone()
    place.converter.may_begin.clear()
    first, second = [asyncio.create_task(place.convert(content)) for _ in range(2)]
    await place.converter.asked.wait()
    first.cancel()
    await asyncio.wait({first})
    assert not (place.scratch / "caller-1").exists()
    place.converter.may_begin.set()
    converted, _ = await second
    assert (converted.duration_s, place.converter.began) == (0.5, 1)


async def test_it_ends_when_all_have_left(place: Place) -> None:
    place.converter.may_begin.clear()
    callers = [asyncio.create_task(place.convert(tone())) for _ in range(2)]
    await place.converter.asked.wait()
    for caller in callers:
        caller.cancel()
    await asyncio.wait(callers)
    await place.in_flight.finish()
    assert place.converter.began == 0
    assert place.left() == []


async def test_what_takes_longer_sounds_does_not_get_anothers_refusal(place: Place) -> None:
    content = tone(2.0)
    short, long = await asyncio.gather(
        place.convert(content, longest_s=1.0),
        place.convert(content, longest_s=3.0),
        return_exceptions=True,
    )
    assert isinstance(short, RequestError)
    assert short.code == "audio_too_long"
    assert isinstance(long, tuple)


@pytest.mark.parametrize("target", TARGETS[:4:2], ids=lambda target: target.name)
async def test_a_cached_sound_that_is_too_long_is_refused_all_the_same(
    place: Place, target: AudioTarget
) -> None:
    content = tone(3.0)
    await place.convert(content, target, stored=True)
    with pytest.raises(RequestError) as raised:
        await place.convert(content, target, longest_s=2.5)
    assert raised.value.code == "audio_too_long"
    assert place.converter.began == 1


async def test_a_long_cached_wav_is_not_even_fetched_to_be_refused(place: Place) -> None:
    content = tone(3.0)
    converted, _ = await place.convert(content, stored=True)

    class Unread(FakeObjects):
        async def download(self, *_: Any, **__: Any) -> ObjectInfo:
            raise AssertionError

    unread = Unread()
    unread.add(converted.key, place.objects.contents[converted.key], "audio/wav")
    place.objects = unread
    with pytest.raises(RequestError):
        await place.convert(content, longest_s=2.5)


async def test_a_conversion_whose_time_is_over_is_made_anew(place: Place) -> None:
    content = tone()
    await place.convert(content, stored=True)
    place.age(key_of(content), DAY_S - 60)
    assert (await place.convert(content))[0].cached
    place.age(key_of(content), DAY_S + 1)
    converted, _ = await place.convert(content, stored=True)
    assert not converted.cached
    assert now() - place.objects.modified_at[converted.key] < timedelta(seconds=60)


async def test_one_that_is_swept_while_it_is_fetched_is_made_anew(place: Place) -> None:
    content = tone()

    class Swept(FakeObjects):
        async def download(self, key: str, path: Path, **limits: Any) -> ObjectInfo:
            self.contents.pop(key)
            return await super().download(key, path, **limits)

    place.objects = Swept()
    first, made = await place.convert(content, stored=True)
    second, again = await place.convert(content, stored=True)
    assert (first.cached, second.cached, made) == (False, False, again)
    assert place.objects.contents == {first.key: made}


@pytest.mark.parametrize("target", TARGETS[::2], ids=lambda target: target.name)
@pytest.mark.parametrize("content", [b"", b"RIFF", b"fLaC" + bytes(40), b"ID3\x04\0\0\0\0\0\1"])
async def test_what_lies_broken_in_the_bucket_is_made_anew(
    place: Place, target: AudioTarget, content: bytes
) -> None:
    source = tone()
    place.objects.add(key_of(source, target), content, AUDIO_TYPES[target.format])
    converted, made = await place.convert(source, target, stored=True)
    assert not converted.cached
    assert place.objects.contents[converted.key] == made


async def test_a_bucket_that_is_away_harms_nobody_who_needs_no_url(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    place.objects.sick = True
    converted, made = await place.convert(tone())
    assert (converted.cached, converted.stored_at, converted.size_bytes) == (False, None, len(made))
    await place.in_flight.finish()
    assert "a conversion is made without the bucket" in caplog.text
    with pytest.raises(Unavailable):
        await place.convert(tone(), stored=True)


async def test_a_bucket_that_says_nothing_is_not_waited_for(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK_UP_S", 0.01)

    class Silent(FakeObjects):
        async def head(self, key: str) -> ObjectInfo | None:
            del key
            await asyncio.Event().wait()
            raise AssertionError

    place.objects = Silent()
    converted, _ = await place.convert(tone())
    assert not converted.cached


async def test_it_is_put_into_the_bucket_beside_the_answer_and_once(place: Place) -> None:
    may_write, writing = asyncio.Event(), asyncio.Event()
    uploads: list[str] = []

    class Slow(FakeObjects):
        async def upload(self, path: Path, key: str, content_type: str) -> None:
            writing.set()
            await may_write.wait()
            uploads.append(key)
            await super().upload(path, key, content_type)

    place.objects = Slow()
    content = tone()
    first, _ = await place.convert(content)
    await writing.wait()
    second, _ = await place.convert(content)
    assert len(place.in_flight._beside) == 1
    assert (first.stored_at, second.stored_at) == (None, None)
    assert (second.cached, place.converter.began) == (True, 1)
    promised = asyncio.create_task(place.convert(content, stored=True))
    may_write.set()
    third, _ = await promised
    assert third.stored_at is not None
    assert uploads == [third.key]


async def test_a_url_ends_before_the_conversion_does(place: Place) -> None:
    content = tone()
    converted, _ = await place.convert(content, stored=True)
    limits = place.limits

    async def valid_s(limits: Limits, age_s: float = 0.0) -> int:
        assert converted.stored_at is not None
        older = replace(converted, stored_at=converted.stored_at - timedelta(seconds=age_s))
        url = await url_of(older, objects=place.objects, limits=limits)
        assert converted.key in url
        return int(url.partition("expires=")[2])

    assert DAY_S - 60 < await valid_s(limits) <= DAY_S
    assert await valid_s(replace(limits, url_lifetime_s=100)) == 100
    assert 50 <= await valid_s(limits, DAY_S - 60) <= 60
    assert await valid_s(limits, 2 * DAY_S) == 1


@pytest.mark.parametrize(("age_s", "renewed"), [(DAY_S / 2 - 60, False), (DAY_S / 2 + 60, True)])
async def test_a_url_of_an_old_conversion_is_worth_having(
    place: Place, age_s: float, *, renewed: bool
) -> None:
    content = tone()
    await place.convert(content, stored=True)
    place.age(key_of(content), age_s)
    converted, _ = await place.convert(content, stored=True)
    assert converted.cached
    assert converted.stored_at is not None
    assert converted.stored_at == place.objects.modified_at[converted.key] or renewed
    assert (now() - converted.stored_at < timedelta(seconds=60)) is renewed
    assert (now() - place.objects.modified_at[converted.key] < timedelta(seconds=60)) is renewed


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
async def test_a_duration_is_read_or_refused_wherever_a_file_ends(
    place: Place, tmp_path: Path, target: AudioTarget
) -> None:
    _, made = await place.convert(tone(0.3), target)
    file = tmp_path / "cut"
    for end in [*range(0, min(len(made), 400), 7), len(made)]:
        file.write_bytes(made[:end])
        try:
            duration_s = duration_of(file, target.format)
        except ValueError:
            assert end < len(made)
        else:
            assert 0 <= duration_s <= 0.4
    file.unlink()
