"""Brings what is to be added onto this machine."""

from __future__ import annotations

import asyncio
from pathlib import Path

from functions._kit.errors import NotFound, Unprocessable
from gateway.adapters.objects import open_objects
from gateway.models.opening import repository_address
from gateway.models.place import S3Place, place_of
from gateway.settings import Settings


async def fetched(source: str, settings: Settings, scratch: Path) -> Path:
    """The file or folder itself, or a copy below `scratch` of what an S3 prefix or key holds.

    Raises `NotFound` (`source_not_found`), `Unprocessable` (`source_invalid`), `SettingsError`.
    """
    try:
        place = place_of(source)
    except ValueError as error:
        raise Unprocessable("source_invalid", f"source: {error}.", field="source") from error
    if isinstance(place, S3Place):
        return await _downloaded(source, place, settings, scratch)
    if not await asyncio.to_thread(place.exists):
        raise _absent(source)
    return await asyncio.to_thread(place.resolve)


async def _downloaded(source: str, place: S3Place, settings: Settings, scratch: Path) -> Path:
    target = scratch / (place.prefix.rpartition("/")[2] or place.bucket)
    prefix = f"{place.prefix}/" if place.prefix else ""
    async with open_objects(repository_address(settings, place)) as objects:
        if place.prefix and await objects.head(place.prefix) is not None:
            await objects.download(place.prefix, target)
            return target
        keys = [info.key async for info in objects.list(prefix) if not info.key.endswith("/")]
        if not keys:
            raise _absent(source)
        for key in keys:
            path = target / key.removeprefix(prefix)
            if target not in path.parents or ".." in path.parts:
                raise Unprocessable("source_invalid", f"source: {key!r} is no path of a file.")
            await asyncio.to_thread(path.parent.mkdir, parents=True, exist_ok=True)
            await objects.download(key, path)
    return target


def _absent(source: str) -> NotFound:
    return NotFound("source_not_found", f"source: there is nothing at {source}.", field="source")
