"""POST /v1/audio/transcriptions: OpenAI's API, so that its clients work unchanged."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
from litestar import Response, post
from litestar.openapi import ResponseSpec
from litestar.response import ServerSentEvent, ServerSentEventMessage

from functions._kit.http import HttpRequest, IdempotencyKey, Port, Principal, while_connected
from functions._kit.messages import new_id
from functions._kit.policy import HttpPolicy
from functions.audio._formats import VerboseTranscription
from functions.audio._intake import RECORDING, TEXT, Ports, hear, receive_form
from functions.audio._openai import (
    BODY,
    FORMATS,
    Transcription,
    TranscriptionForm,
    check_model,
    check_output,
    streams,
)
from functions.audio._tasks import start_task, transcript_of_task
from functions.audio.contracts import Transcript
from functions.tasks.contracts import TaskAccepted


@post(
    "/v1/audio/transcriptions",
    status_code=200,
    summary="Transcribe a recording, as OpenAI's API does it",
    request_max_body_size=None,  # counted while it comes
    responses={
        200: ResponseSpec(
            Transcription | VerboseTranscription,  # type: ignore[arg-type]
            description="What was said",
        ),
        202: ResponseSpec(TaskAccepted, description="`async`: it became a task"),
    },
    dependencies=RECORDING,
    opt={
        # without end: a long recording is waited for as long as its sender waits
        "policy": HttpPolicy(scope="audio:write", concurrency=256, busy_status=429, timeout_s=None),
        "openapi_body": {"multipart/form-data": BODY},
        "openapi_answers": {"text/plain": TEXT, "text/event-stream": TEXT},
    },
)
async def transcriptions(
    request: HttpRequest,
    principal: Port[Principal],
    ports: Port[Ports],
    idempotency_key: IdempotencyKey = None,
) -> Response[Any]:
    """A form as OpenAI defines it. Recordings of any length are answered when they are done.

    `model` is the served model's name, or one of OpenAI's, which mean that one. It decodes the
    likeliest words and takes no hints, so `prompt`, `keywords[]` and `temperature` change
    nothing, and sound is always cut at silences. With `stream=true` the words come as events,
    segment by segment, once all is heard. What is not OpenAI's: `async=true` answers 202 with a
    task (and takes `priority`, `callback_url` and the header Idempotency-Key).
    """
    with tempfile.TemporaryDirectory(dir=ports.scratch) as folder:
        recording, form = await receive_form(
            request, Path(folder), TranscriptionForm, ports.limits, file_field="file"
        )
        check_output(form)
        await check_model(form, ports.inference, ports.values)
        heard = await while_connected(
            request, hear(recording, form, ports, file_field="file", stored=False)
        )
        client_id = principal.client_id
        if heard is not None:
            transcript = heard.transcript
        elif form.as_task:
            return await start_task(
                recording, form, ports, client_id=client_id, idempotency_key=idempotency_key
            )
        else:
            transcript = await while_connected(
                request,
                transcript_of_task(recording, form, ports, client_id=client_id, task_id=new_id()),
            )
    if streams(form):
        return ServerSentEvent(_events(transcript))
    return FORMATS[form.response_format](transcript)


async def _events(transcript: Transcript) -> AsyncIterator[ServerSentEventMessage]:
    """The text in pieces, then whole, as OpenAI's transcript events."""
    said = [segment.text for segment in transcript.segments if segment.text]
    for number, text in enumerate(said):
        yield _event("transcript.text.delta", delta=f" {text}" if number else text)
    yield _event("transcript.text.done", text=transcript.text)


def _event(kind: str, **facts: str) -> ServerSentEventMessage:
    data = msgspec.json.encode({"type": kind, **facts}).decode()
    return ServerSentEventMessage(event=kind, data=data)
