"""Ending what runs beside us."""

from __future__ import annotations

import asyncio
from typing import Any


async def end(*tasks: asyncio.Task[Any]) -> None:
    """Cancel `tasks` until they have ended: in Python 3.11 `wait_for` may swallow a cancellation.

    nats-py waits by it, so a task that an answer reaches at this moment would go on for ever.
    """
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=0.1)
