"""Secrets of clients: made here, kept only as hashes, compared in constant time."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cache

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

_hasher = PasswordHasher()
GIVE_WAY = 10


def _give_way() -> None:
    """On Linux niceness is a thread's own: whoever hashes, holds nobody up who answers."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), GIVE_WAY)


_hashing = ThreadPoolExecutor(2, "argon2", initializer=_give_way)
"""One argon2 hash takes 64 MiB and tens of milliseconds: no more than two at once."""


def new_secret() -> str:
    """256 random bits."""
    return secrets.token_urlsafe(32)


def hash_secret(secret: str) -> str:
    """The argon2id hash, with the library's own parameters (RFC 9106, low memory)."""
    return _hasher.hash(secret)


async def verify_secret(secret: str, hashed: str | None) -> bool:
    """Whether `secret` made `hashed`; takes as long where there is no hash to compare with."""
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(_hashing, _verify, secret, hashed)


def _verify(secret: str, hashed: str | None) -> bool:
    try:
        _hasher.verify(hashed if hashed is not None else _nobody(), secret)
    except (VerificationError, InvalidHashError):
        return False
    return hashed is not None


@cache
def _nobody() -> str:
    return hash_secret(new_secret())
