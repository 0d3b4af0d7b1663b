"""What it means that NATS cannot be reached, and how long it is asked again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import nats.errors
import nats.js.errors
from nats.aio.client import Client

from functions._kit.errors import Unavailable

T = TypeVar("T")

log = logging.getLogger(__name__)

ASK_TIMEOUT_S = 5.0
"""Longest wait for one answer of JetStream."""
ELECTION_S = 60.0
"""A cluster that starts, or has lost its leaders, is given so long to elect them."""
PAUSE_S = 0.25
NO_PEERS, NO_CLUSTER = 10005, 10074
"""JetStream's error codes for too few servers: as yet, or because there is no cluster at all."""

UNREACHABLE = (nats.errors.Error, nats.js.errors.Error, OSError, asyncio.TimeoutError)
"""What nats-py raises where the server is away, or does not do what it is asked."""


def check_connected(client: Client) -> None:
    """Refuse now: nats-py would keep a message and send it after we said that it failed."""
    if not client.is_connected:
        raise Unavailable("queue", "NATS is not connected; it is being called again")


@contextmanager
def translated() -> Iterator[None]:
    """Whatever nats-py raises within is `Unavailable`."""
    try:
        yield
    except UNREACHABLE as error:
        raise unanswered(error) from error


def unanswered(error: Exception) -> Unavailable:
    """What a caller is told of an error of nats-py."""
    return Unavailable("queue", f"JetStream does not answer: {error!r}")


async def patiently(work: Callable[[], Awaitable[T]]) -> T:
    """Do `work`, which may be repeated, again and again while a cluster elects its leaders.

    Raises `Unavailable` after `ELECTION_S`, and at once where JetStream says that it never will.
    """
    deadline = asyncio.get_running_loop().time() + ELECTION_S
    while True:
        try:
            return await work()
        except UNREACHABLE as error:
            if _is_final(error) or asyncio.get_running_loop().time() > deadline:
                why = str(error) or repr(error)
                raise Unavailable("queue", f"JetStream refuses: {why}") from error
            log.info("JetStream is asked again: %r", error)
        await asyncio.sleep(PAUSE_S)


def _is_final(error: BaseException) -> bool:
    """Whether JetStream, with all its leaders, would say the same."""
    if not isinstance(error, nats.js.errors.APIError):
        return False
    ours = 400 <= (error.code or 0) < 500 and error.err_code != NO_PEERS
    return ours or error.err_code == NO_CLUSTER
