"""jobs.alerts.sweep: pictures that the ordinary way has left behind."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime, timedelta

from functions._kit.consume import Tick, consume
from functions._kit.left_behind import STEP, messages_in_letters, waiting_since
from functions._kit.policy import Policy
from functions._kit.ports import AlertStore, DeadLetters, ObjectInfo, Objects, Stream
from functions.alerts.contracts import FRAME_PREFIX, KEEP_SUBJECT, Alert, Frame, KeepJob, image_key

KEEP_AFTER = timedelta(minutes=5)
"""By then the ordinary way has used up its tries."""
REMOVE_AFTER = timedelta(hours=1)
"""No frame that came later is looked at: its message may be on its way."""


@consume("jobs.alerts.sweep", policy=Policy(every_s=600.0, timeout_s=1800.0, attempts=3))
async def sweep(
    tick: Tick,
    alert_store: AlertStore,
    objects: Objects,
    stream: Stream,
    dead_letters: DeadLetters,
) -> None:
    """Keep what was not kept, and remove frames that no message, letter or alert names."""
    await _keep(tick, alert_store, objects, stream)
    async for keys in _left_behind(tick, alert_store, objects, stream, dead_letters):
        await objects.delete(keys)


async def _keep(tick: Tick, alert_store: AlertStore, objects: Objects, stream: Stream) -> None:
    """Order once more what three tries did not do, where there is still a frame to copy."""
    before = tick.at - KEEP_AFTER
    last: Alert | None = None
    while some := await alert_store.without_image(before=before, limit=STEP, after=last):
        last = some[-1]
        for alert in some:
            sources = (alert.frame_key, image_key(alert))
            if any([await objects.head(key) is not None for key in sources]):
                job = KeepJob(alerts=(alert,), discard_frame=False)  # another may need it too
                await stream.publish(KEEP_SUBJECT, job, message_id=f"sweep:{alert.alert_id}")


async def _left_behind(
    tick: Tick,
    alert_store: AlertStore,
    objects: Objects,
    stream: Stream,
    dead_letters: DeadLetters,
) -> AsyncIterator[list[str]]:
    before = tick.at - REMOVE_AFTER
    if await waiting_since(KEEP_SUBJECT, stream, tick.at) < tick.at - KEEP_AFTER:
        return  # keeping is behind, and may name frames that no row names yet
    before = min(before, await waiting_since("frames.>", stream, tick.at) - REMOVE_AFTER)
    letters = messages_in_letters(dead_letters, "alerts.detect", Frame)
    kept = {frame.key.removeprefix("/") async for frame in letters}
    async for some in _steps(objects.list(FRAME_PREFIX), before):
        needed = await alert_store.waiting_for(some)
        yield [key for key in some if key not in needed and key not in kept]


async def _steps(found: AsyncIterator[ObjectInfo], before: datetime) -> AsyncIterator[list[str]]:
    """Keys of objects written before `before`, `STEP` at a time."""
    keys: list[str] = []
    async for info in found:
        if info.modified_at is not None and info.modified_at < before:
            keys.append(info.key)
        if len(keys) == STEP:
            yield keys
            keys = []
    if keys:
        yield keys
