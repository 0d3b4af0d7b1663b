"""How processes of ours say that they are ready, and how they are told to stop."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

READY = "ready"
"""First word of the line that a worker prints once it takes messages."""


@contextmanager
def stopped_by_signals() -> Iterator[asyncio.Event]:
    """An event that SIGINT and SIGTERM set."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    try:
        yield stop
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


async def until_stopped(work: Coroutine[Any, Any, None]) -> bool:
    """Run `work` until it ends or SIGINT or SIGTERM comes, also while it starts; True if it ended.

    A stopped `work` is cancelled and waited for, so that it closes what it has opened.
    """
    with stopped_by_signals() as stop:
        working = asyncio.ensure_future(work)
        stopping = asyncio.ensure_future(stop.wait())
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        ended = working.done()
        if not ended:
            working.cancel()
            await asyncio.wait({working})
        if not working.cancelled():
            working.result()
        return ended
