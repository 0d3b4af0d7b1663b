"""Ending what runs beside us."""

from __future__ import annotations

import asyncio
from typing import Any


async def end(task: asyncio.Task[Any]) -> None:
    """Cancel `task` until it has ended: in Python 3.11 `wait_for` may swallow a cancellation.

    nats-py waits by it, so a task that an answer reaches at this moment would go on for ever.
    """
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=0.1)
