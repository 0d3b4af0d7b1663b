"""POST /v1/audio/transcriptions: OpenAI's API, so that its clients work unchanged."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
from litestar import Response, post
from litestar.openapi import ResponseSpec
from litestar.params import HeaderParameter
from litestar.response import ServerSentEvent, ServerSentEventMessage

from functions._kit.http import HttpRequest, Port, Principal, while_connected
from functions._kit.in_flight import InFlight
from functions._kit.messages import new_id
from functions._kit.policy import HttpPolicy
from functions._kit.ports import (
    AudioConverter,
    Figures,
    Inference,
    KeyValue,
    Limits,
    Objects,
    Stream,
    TaskStore,
)
from functions.audio._formats import VerboseTranscription
from functions.audio._intake import TEXT, Ports, hear, receive_form
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
    converter: Port[AudioConverter],
    inference: Port[Inference],
    values: Port[KeyValue],
    objects: Port[Objects],
    stream: Port[Stream],
    store: Port[TaskStore],
    in_flight: Port[InFlight],
    figures: Port[Figures],
    limits: Port[Limits],
    scratch: Port[Path],
    idempotency_key: Annotated[
        str | None, HeaderParameter(name="Idempotency-Key", min_length=1, max_length=255)
    ] = None,
) -> Response[Any]:
    """A form as OpenAI defines it. Recordings of any length are answered when they are done.

    `model` is the served model's name, or one of OpenAI's, which mean that one. It decodes the
    likeliest words and takes no hints, so `prompt`, `keywords[]` and `temperature` change
    nothing, and sound is always cut at silences. With `stream=true` the words come as events,
    segment by segment, once all is heard. What is not OpenAI's: `async=true` answers 202 with a
    task (and takes `priority`, `callback_url` and the header Idempotency-Key).
    """
    ports = Ports(
        converter=converter, objects=objects, in_flight=in_flight, inference=inference,
        values=values, figures=figures, stream=stream, store=store, limits=limits,
    )  # fmt: skip
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        recording, form = await receive_form(
            request, Path(folder), TranscriptionForm, limits, file_field="file"
        )
        check_output(form)
        await check_model(form, inference, values)
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
