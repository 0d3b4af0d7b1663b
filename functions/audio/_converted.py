"""Conversions are made once: the same bytes with the same target lie in the bucket for a while."""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from functions._kit.errors import NotFound, Unavailable
from functions._kit.in_flight import InFlight
from functions._kit.messages import now
from functions._kit.ports import (
    AUDIO_TYPES,
    AudioConverter,
    AudioTarget,
    Limits,
    ObjectInfo,
    Objects,
)
from functions._kit.sound.refusals import too_long
from functions.audio._durations import duration_of
from functions.audio.contracts import converted_key

log = logging.getLogger(__name__)

LOOK_UP_S = 3.0
"""The bucket is a help: one that says nothing for so long is done without."""
MOST_HEADER_BYTES = 4096
SAMPLE_BYTES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """A conversion at hand."""

    key: str
    """Where it lies in the bucket, if `stored_at` is not None."""
    duration_s: float
    size_bytes: int
    cached: bool
    """Whether nothing was converted for this call."""
    stored_at: datetime | None


async def convert_once(
    source: Path,
    sha256: str,
    into: Path,
    target: AudioTarget,
    *,
    converter: AudioConverter,
    objects: Objects,
    in_flight: InFlight,
    limits: Limits,
    longest_s: float,
    stored: bool = False,
) -> Converted:
    """Leave the conversion of `source`, whose bytes have the checksum `sha256`, at `into`.

    It comes from the bucket where it is there, and is made once for all who ask at a time.
    Only with `stored` does it lie in the bucket when this returns: that raises `Unavailable`
    where it cannot be put there. Otherwise it is put there beside the answer, if at all.
    Raises as `AudioConverter.convert` does. There must be no file at `into` yet; it shares its
    bytes with others, so it may be read alone.
    """
    key = converted_key(sha256, target)
    run = f"{key} {longest_s}"  # whoever takes longer sounds shall not get another's refusal
    ours = False

    def make() -> AbstractAsyncContextManager[_Made]:
        nonlocal ours
        ours = True
        plan = _Plan(source, key, target, longest_s, limits)
        return _made(plan, converter, objects, in_flight.scratch)

    async with in_flight.shared(run, make) as made:
        os.link(made.file, into)
        if stored:
            await made.store()
        elif made.stored_at is None and not made.storing:
            made.storing = in_flight.beside(run, made.store())
        return Converted(
            key=key,
            duration_s=made.duration_s,
            size_bytes=made.size_bytes,
            cached=made.from_bucket or not ours,
            stored_at=made.stored_at,
        )


async def url_of(converted: Converted, *, objects: Objects, limits: Limits) -> str:
    """A presigned URL of what was converted with `stored`; it ends before the object does."""
    assert converted.stored_at is not None
    left = converted.stored_at + _lifetime(limits) - now()
    expires_s = min(limits.url_lifetime_s, int(left.total_seconds()))
    return await objects.presign(converted.key, expires_s=max(1, expires_s))


@dataclass(frozen=True, slots=True)
class _Plan:
    source: Path
    key: str
    target: AudioTarget
    longest_s: float
    limits: Limits

    def check_length(self, duration_s: float) -> None:
        """Refuse, as the converter does, what others may have converted."""
        if duration_s > self.longest_s:
            raise too_long(self.longest_s, duration_s)


@dataclass(slots=True)
class _Made:
    """A converted file in a folder that lives as long as somebody uses it."""

    plan: _Plan
    objects: Objects
    file: Path
    duration_s: float
    stored_at: datetime | None = None
    from_bucket: bool = False
    storing: bool = False
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def size_bytes(self) -> int:
        return self.file.stat().st_size

    async def store(self) -> None:
        """Put it into the bucket, unless it will lie there for half its lifetime yet."""
        async with self._turn:
            half = _lifetime(self.plan.limits) / 2
            if self.stored_at is None or self.stored_at + half < now():
                content_type = AUDIO_TYPES[self.plan.target.format]
                await self.objects.upload(self.file, self.plan.key, content_type)
                self.stored_at = now()


@asynccontextmanager
async def _made(
    plan: _Plan, converter: AudioConverter, objects: Objects, scratch: Path
) -> AsyncIterator[_Made]:
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        source, file = Path(folder) / "source", Path(folder) / plan.target.name
        os.link(plan.source, source)  # whose owner may leave while others wait
        made = await _from_bucket(plan, file, objects)
        if made is None:
            sound = await converter.convert(source, file, plan.target, longest_s=plan.longest_s)
            made = _Made(plan, objects, file, sound.duration_s)
        yield made


async def _from_bucket(plan: _Plan, file: Path, objects: Objects) -> _Made | None:
    """What was converted before, or None where there is nothing, or nobody can say."""
    try:
        async with asyncio.timeout(LOOK_UP_S):
            info = await objects.head(plan.key)
        if info is None or info.modified_at is None:
            return None
        if info.modified_at + _lifetime(plan.limits) < now():
            return None
        plan.check_length(_least_duration(info, plan.target))
        await objects.download(plan.key, file)
        duration_s = await asyncio.to_thread(duration_of, file, plan.target.format)
    except NotFound:
        pass  # it has just been swept
    except (Unavailable, TimeoutError) as error:
        log.warning("a conversion is made without the bucket: %r", error)
    except ValueError as error:
        log.warning("%s is made anew: %s", plan.key, error)
    else:
        plan.check_length(duration_s)
        return _Made(plan, objects, file, duration_s, info.modified_at, from_bucket=True)
    await asyncio.to_thread(file.unlink, missing_ok=True)
    return None


def _least_duration(info: ObjectInfo, target: AudioTarget) -> float:
    """How long a sound lasts at least, in seconds, by the size of its file."""
    if target.format != "wav":
        return 0.0
    samples_bytes = info.size_bytes - MOST_HEADER_BYTES
    return samples_bytes / (target.sample_rate * target.channels * SAMPLE_BYTES)


def _lifetime(limits: Limits) -> timedelta:
    return timedelta(seconds=limits.audio_cache_lifetime_s)
