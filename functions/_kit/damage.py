"""Whether an object is still what its row says: asked before a URL of it is handed out."""

from __future__ import annotations

import asyncio
import time
from typing import Literal
from weakref import WeakKeyDictionary

from functions._kit.errors import Unavailable
from functions._kit.messages import Answer
from functions._kit.ports import Objects

LOOK_S = 1.0
"""Longest wait for the store's word. Without it the URL is given: the row says that it is there."""

LOOK_AGAIN_S = 5.0
"""A store that gave no word in time is not asked for so long: others need not wait for it, too."""

SEEN_S = 300.0
"""For so long an object that was whole is believed to be: a status is asked for again and again."""


_silent_until: WeakKeyDictionary[Objects, float] = WeakKeyDictionary()


class Damage(Answer, frozen=True, kw_only=True):
    """Why there is no URL of an object that should be there."""

    code: Literal["object_damaged"] = "object_damaged"
    message: str


async def damage_of(objects: Objects, key: str, size_bytes: int | None) -> Damage | None:
    """What is wrong with the object `key`, or None; without a size only its absence is.

    What happens to an object that was whole is noticed within `SEEN_S`.
    """
    if time.monotonic() < _silent_until.get(objects, 0.0):
        return None
    try:
        async with asyncio.timeout(LOOK_S):
            found = await objects.seen(key, within_s=SEEN_S)
            if found is not None and size_bytes not in {None, found.size_bytes}:
                found = await objects.head(key)  # it may have been restored meanwhile
    except TimeoutError:
        _silent_until[objects] = time.monotonic() + LOOK_AGAIN_S
        return None
    except Unavailable:
        return None
    if found is None:
        what = "is gone from the bucket"
    elif size_bytes is not None and found.size_bytes != size_bytes:
        what = f"has {found.size_bytes} bytes of the {size_bytes} that were written"
    else:
        return None
    return Damage(message=f"{key!r} {what}: restore it from your backup of S3, or make it anew")
