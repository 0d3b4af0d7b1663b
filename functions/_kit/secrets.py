"""Secrets of clients: made here, kept only as hashes, compared in constant time."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cache

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

SHORTEST, LONGEST = 8, 256
"""Characters of a secret that somebody has thought up (ASVS 5.0, 6.2.1); ours have 43."""
CLIENT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,127}")

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


def check_client_id(client_id: str) -> None:
    """Raise ValueError for an id that could be taken for another path in the bucket or log."""
    if not CLIENT_ID.fullmatch(client_id):
        raise ValueError(
            "a client id is 1 to 128 letters, digits, '.', '_', '@' and '-', and begins with a "
            "letter or digit"
        )


def check_secret(secret: str, client_id: str) -> None:
    """Raise ValueError for one that is too easy to guess, or that a header cannot carry."""
    if not SHORTEST <= len(secret) <= LONGEST:
        raise ValueError(
            f"it must have {SHORTEST} to {LONGEST} characters; leave it out to get one"
        )
    if not (secret.isascii() and secret.isprintable()) or secret != secret.strip():
        raise ValueError("it must be printable ASCII without spaces around it")
    if len(set(secret)) < 5 or secret.lower() == client_id.lower():
        raise ValueError("it must not be the client's id, nor a few characters over and over")


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
