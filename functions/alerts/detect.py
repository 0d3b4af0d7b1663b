"""frames.<camera_id>: what is in the picture, and is it an alert."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from functions._kit.consume import Envelope, consume
from functions._kit.errors import JobFailed, NotFound
from functions._kit.keys import OWN_PREFIXES, object_key
from functions._kit.messages import now
from functions._kit.policy import Policy
from functions._kit.ports import (
    Inference,
    KeyValue,
    Limits,
    ObjectInfo,
    Objects,
    PictureDecoder,
    Stream,
    Tally,
)
from functions.alerts._cameras import rules_of
from functions.alerts._detector import Detection, Detector, detections, looking
from functions.alerts._judge import Finding, take_cooldown, wanted
from functions.alerts.contracts import (
    DISCARD_SUBJECT,
    EARLIEST,
    FRAME_PREFIX,
    KEEP_SUBJECT,
    LATEST,
    Alert,
    DiscardJob,
    Frame,
    KeepJob,
    Rules,
    alert_id,
    alert_subject,
    cooldown_key,
    frame_subject,
    is_camera_id,
)

NO_PICTURE = ("text/", "application/json", "application/pdf", "audio/", "video/")
"""Declared types that contradict a picture; a store that does not know says something else."""


@consume(
    "frames.*",
    policy=Policy(concurrency=8, timeout_s=60.0, attempts=5, backoff_s=(1.0, 5.0, 30.0)),
)
async def detect(
    frame: Frame,
    envelope: Envelope,
    objects: Objects,
    pictures: PictureDecoder,
    inference: Inference,
    stream: Stream,
    values: KeyValue,
    tally: Tally,
    limits: Limits,
) -> None:
    """Look at one frame; publish its alerts as facts, and what is to become of its picture.

    All ids derive from the frame, so a frame that is looked at twice tells nothing twice.
    """
    camera_id = _camera_of(envelope)
    captured_at = _captured_at(frame, envelope)
    frame = msgspec.structs.replace(frame, key=object_key(frame.key, "key"))
    check_key(frame, camera_id)
    rules = rules_of(values, camera_id)
    with tally.in_hand(camera_id):
        if rules.backlog == "latest" and await _is_stale(camera_id, rules, stream, tally):
            if not await _discard(frame, stream):
                tally.add(camera_id, "shed")
            return
        try:
            data, info = await objects.read(frame.key, limit_bytes=limits.max_frame_bytes)
        except NotFound:
            if await _is_done(frame, envelope, stream):
                return
            raise
        check_type(info)

        async def work(by: Detector) -> tuple[Detector, Sequence[Detection]]:
            return by, await look(data, by, pictures, inference, limits)

        by, found = await looking(inference, values, work, unit=frame.key)
        counts = Counter(frames=1)
        findings = wanted(found, rules, counts)
        made = [
            _alert(finding, frame, len(data), camera_id, captured_at, by) for finding in findings
        ]
        alerts = await _cooled(made, rules, values, counts)
        await _tell(alerts, frame, stream)
    for name, count in counts.items():  # at the end: what had to wait for a backend runs again
        tally.add(camera_id, name, count)


async def look(
    data: bytes,
    by: Detector,
    pictures: PictureDecoder,
    inference: Inference,
    limits: Limits,
) -> Sequence[Detection]:
    """Everything that the model sees in a picture file, best first."""
    picture = await pictures.letterbox(
        data,
        width=by.canvas.width,
        height=by.canvas.height,
        multiple_of=by.canvas.multiple_of,
        max_pixels=limits.max_pixels,
    )
    answer = await inference.infer(by.model, {"image": picture.pixels[None]})
    return list(detections(answer["detections"][0], picture, by))


def check_key(frame: Frame, camera_id: str) -> None:
    """Raise `JobFailed` (`key_not_allowed`) for what is not this frame's to look at."""
    own = [f"{FRAME_PREFIX}{camera_id}/"]
    if frame.client_id is not None:
        own.append(f"uploads/{frame.client_id}/")
    if frame.key.startswith(OWN_PREFIXES) and not frame.key.startswith(tuple(own)):
        raise JobFailed(
            "key_not_allowed",
            f"key {frame.key[:200]!r} lies among what belongs to a client or another camera: "
            "put frames under a prefix of their own, or name the client_id they belong to",
        )


def check_type(info: ObjectInfo) -> None:
    """Raise `JobFailed` (`wrong_content_type`) for an object that is declared to be no picture."""
    if info.content_type.lower().startswith(NO_PICTURE):
        raise JobFailed(
            "wrong_content_type",
            f"the object is declared as {info.content_type}; a frame is a picture (image/jpeg)",
        )


def _camera_of(envelope: Envelope) -> str:
    camera_id = envelope.subject.partition(".")[2]
    if not is_camera_id(camera_id):
        raise JobFailed(
            "invalid_camera_id",
            f"{camera_id[:100]!r} is no camera_id: 1 to 64 letters, digits, '-' and '_'",
        )
    return camera_id


def _captured_at(frame: Frame, envelope: Envelope) -> datetime:
    captured_at = frame.captured_at or envelope.stored_at
    if not EARLIEST <= captured_at < LATEST:
        raise JobFailed("invalid_captured_at", f"captured_at {captured_at} is out of all bounds")
    return captured_at.astimezone(UTC)


async def _is_stale(camera_id: str, rules: Rules, stream: Stream, tally: Tally) -> bool:
    """Whether more frames than the camera wants to have waiting have come after this one."""
    held = await stream.count(frame_subject(camera_id))
    return held - tally.frames_in_hand(camera_id) > rules.max_waiting


def _alert(
    finding: Finding,
    frame: Frame,
    frame_bytes: int,
    camera_id: str,
    captured_at: datetime,
    by: Detector,
) -> Alert:
    return Alert(
        alert_id=alert_id(camera_id, frame, captured_at, finding.name),
        camera_id=camera_id,
        label=finding.detection.label,
        score=finding.detection.score,
        box=finding.detection.box,
        zone=finding.zone,
        captured_at=captured_at,
        created_at=now(),
        model=by.model.name,
        model_version=by.model.version,
        frame_key=frame.key,
        frame_bytes=frame_bytes,
    )


async def _cooled(
    made: list[Alert], rules: Rules, values: KeyValue, counts: Counter[str]
) -> tuple[Alert, ...]:
    """Those of the frame's alerts, best first, that no cooldown forbids; others are counted."""
    if rules.cooldown_seconds == 0:
        return tuple(made)
    first: dict[str, Alert] = {}
    for alert in made:
        first.setdefault(cooldown_key(alert), alert)
    taken = await asyncio.gather(
        *(
            take_cooldown(
                values,
                key,
                at=alert.captured_at,
                seconds=rules.cooldown_seconds,
                alert_id=alert.alert_id,
            )
            for key, alert in first.items()
        )
    )
    alerts = [alert for alert, is_taken in zip(first.values(), taken, strict=True) if is_taken]
    cooled = Counter(a.label for a in made) - Counter(a.label for a in alerts)
    counts.update({f"cooled.{label}": count for label, count in cooled.items()})
    return tuple(alerts)


async def _tell(alerts: tuple[Alert, ...], frame: Frame, stream: Stream) -> None:
    """Publish the facts and the job that keeps their picture, or else the one that removes it."""
    if not alerts:
        await _discard(frame, stream)
        return
    ours = frame.key.startswith(FRAME_PREFIX)
    job = KeepJob(alerts=alerts, discard_frame=ours)
    # a picture of somebody else's may be a frame again, with other alerts
    message_id = _verdict_id(frame) if ours else f"keep:{alerts[0].alert_id}"
    await asyncio.gather(
        *(
            stream.publish(alert_subject(alert.camera_id), alert, message_id=alert.alert_id)
            for alert in alerts
        ),
        stream.publish(KEEP_SUBJECT, job, message_id=message_id),
    )


async def _discard(frame: Frame, stream: Stream) -> bool:
    """Have the picture removed if it is ours; whether its end was decided before."""
    if not frame.key.startswith(FRAME_PREFIX):  # any other object is its owner's
        return False
    job = DiscardJob(keys=(frame.key,))
    return (await stream.publish(DISCARD_SUBJECT, job, message_id=_verdict_id(frame))).duplicate


async def _is_done(frame: Frame, envelope: Envelope, stream: Stream) -> bool:
    """Whether a frame whose picture is gone was looked at before; then only the word was lost."""
    if not frame.key.startswith(FRAME_PREFIX):
        return False
    return envelope.attempt > 1 or await _discard(frame, stream)


def _verdict_id(frame: Frame) -> str:
    """To keep or to discard: the queue takes one order for each picture, the first.

    A frame that is looked at again, by other rules, must not take away what is to be kept.
    """
    return f"verdict:{frame.key}"
