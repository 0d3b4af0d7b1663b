"""Recordings that become tasks: started, waited for, and called off where nobody waits any more."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from litestar import Response

from functions._kit.errors import QueueFull, Unavailable, Unprocessable
from functions._kit.messages import Message
from functions._kit.ports import Stream
from functions._kit.sse import with_heartbeats
from functions._kit.submit import accepted_before, call_off, claim_task_id, new_task, submit
from functions.audio._intake import Ports, Recording, RecordingForm
from functions.audio.contracts import (
    PROMPT,
    TRANSCRIBE,
    WORKFLOW,
    AudioJob,
    Transcript,
    TranscriptResult,
    incoming_key,
)
from functions.tasks.contracts import (
    Status,
    Task,
    TaskAccepted,
    TaskError,
    TaskEvent,
    event_subject,
    read_event,
)

MOST_TRANSCRIPT_BYTES = 64 << 20
"""Some hundred times what is said in four hours."""
OUR_FAULTS = frozenset({"internal_error", "too_slow", "worker_lost"})
"""Codes by which the worker tells that it is not the recording that is at fault."""

_decode_transcript = msgspec.json.Decoder(Transcript).decode


class _Asked(Message, frozen=True, kw_only=True):
    """What makes two requests with the same Idempotency-Key the same."""

    sha256: str
    form: Any


async def start_task(
    recording: Recording,
    form: RecordingForm,
    ports: Ports,
    *,
    client_id: str,
    idempotency_key: str | None,
    user_prompt: str | None = None,
) -> Response[TaskAccepted]:
    """Put the recording into the bucket and take the task durably; the answer is 202.

    Raises `Unavailable`, and `Conflict` as `claim_task_id` does.
    """
    asked = _Asked(sha256=recording.sha256, form=form)
    task_id = await claim_task_id(ports.store, client_id, idempotency_key, asked)
    accepted = await accepted_before(ports.store, task_id) if idempotency_key else None
    if accepted is None:
        task = new_task(task_id, client_id, WORKFLOW, form.priority, form.callback_url)
        accepted = await _submit(recording, task, user_prompt, ports)
    return Response(accepted, status_code=202, headers={"Location": accepted.status_url})


async def transcript_of_task(
    recording: Recording, form: RecordingForm, ports: Ports, *, client_id: str, task_id: str
) -> Transcript:
    """The transcript that a task makes of the recording; cancelling this cancels the task.

    Raises `Unprocessable` with the task's own error, and `Unavailable`.
    """
    task = new_task(task_id, client_id, WORKFLOW, form.priority, form.callback_url)
    try:
        await _submit(recording, task, None, ports)
        recording.file.unlink()  # the bucket has it, and the wait may be long
        end = await _final_event(task_id, ports.stream)
    except asyncio.CancelledError:
        await call_off(ports.stream, ports.store, task)
        raise
    if end.status is not Status.COMPLETED:
        raise _without_transcript(task_id, end.error)
    result = msgspec.convert(end.result, TranscriptResult)
    data, _ = await ports.objects.read(result.file_path, limit_bytes=MOST_TRANSCRIPT_BYTES)
    return _decode_transcript(data)


async def _submit(
    recording: Recording, task: Task, user_prompt: str | None, ports: Ports
) -> TaskAccepted:
    key = incoming_key(task.task_id)
    await ports.objects.upload(recording.file, key, "application/octet-stream")
    job = AudioJob(
        task=task,
        steps=(TRANSCRIBE,) if user_prompt is None else (TRANSCRIBE, PROMPT),
        source_key=key,
        user_prompt=user_prompt,
    )
    try:
        return await submit(ports.stream, ports.store, job)
    except QueueFull:  # of any other failure it is not known whether the job arrived
        await ports.objects.delete([key])
        raise


async def _final_event(task_id: str, stream: Stream) -> TaskEvent:
    records = with_heartbeats(stream.follow(event_subject(task_id)))
    try:
        async for record in records:
            event = None if record is None else read_event(record.data)
            if event is not None and event.status.final:
                return event
    finally:
        await records.aclose()
    raise Unavailable("queue", f"the events of the task {task_id} ended before it did")


def _without_transcript(task_id: str, error: TaskError | None) -> Unprocessable | Unavailable:
    if error is None:
        return Unprocessable(
            "task_cancelled", f"the task {task_id} of this recording was cancelled", field="file"
        )
    if error.code in OUR_FAULTS or error.code.endswith("_unavailable"):
        return Unavailable("transcription", f"{error.code}: {error.message}")
    return Unprocessable(error.code, error.message, field="file")
