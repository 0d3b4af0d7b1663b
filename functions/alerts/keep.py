"""jobs.alerts.keep: an alert's picture moves to where it stays as long as the alert."""

from __future__ import annotations

import msgspec

from functions._kit.consume import consume
from functions._kit.errors import JobFailed, NotFound
from functions._kit.policy import Policy
from functions._kit.ports import Objects, Stream
from functions.alerts.contracts import (
    DISCARD_SUBJECT,
    KEEP_SUBJECT,
    DiscardJob,
    KeepJob,
    image_key,
    image_subject,
)


@consume(
    KEEP_SUBJECT,
    policy=Policy(concurrency=4, timeout_s=60.0, attempts=3, backoff_s=(1.0, 4.0)),
)
async def keep(job: KeepJob, objects: Objects, stream: Stream) -> None:
    """Copy the frame for each alert, tell that it is there, and only then let the frame go.

    Three tries; then the sweeper takes over.
    """
    frame_key = job.alerts[0].frame_key
    for alert in job.alerts:
        key = image_key(alert)
        try:
            await objects.copy(frame_key, key)
        except NotFound as error:
            if await objects.head(key) is None:  # else an earlier run was here
                raise JobFailed(
                    "frame_gone", f"the frame {frame_key!r} was removed before it was kept"
                ) from error
        kept = msgspec.structs.replace(alert, image_key=key)
        await stream.publish(
            image_subject(alert.camera_id), kept, message_id=f"{alert.alert_id}:image"
        )
    if job.discard_frame:
        discarding = DiscardJob(keys=(frame_key,))
        await stream.publish(DISCARD_SUBJECT, discarding, message_id=f"discard:{frame_key}")
