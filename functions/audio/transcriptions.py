"""POST /v1/audio/transcriptions: OpenAI's API, so that its clients work unchanged."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from litestar import MediaType, Response, post
from litestar.openapi import ResponseSpec
from litestar.openapi.spec import OpenAPIType, Schema
from litestar.params import HeaderParameter
from litestar.response import ServerSentEvent, ServerSentEventMessage
from msgspec import Meta

from functions._kit.capabilities import serving
from functions._kit.errors import NotFound, RequestError, Unavailable
from functions._kit.http import HttpRequest, Port, Principal, while_connected
from functions._kit.in_flight import InFlight
from functions._kit.messages import Answer, new_id
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
from functions.audio._formats import LANGUAGES, VerboseTranscription, srt, verbose, vtt
from functions.audio._intake import (
    BYTES,
    FORM_FIELDS,
    NUMBER,
    TEXT,
    TRUTH,
    Ports,
    RecordingForm,
    hear,
    receive_form,
)
from functions.audio._tasks import start_task, transcript_of_task
from functions.audio.contracts import Transcript
from functions.tasks.contracts import TaskAccepted

OPENAI_MODELS = frozenset(
    {
        "whisper-1", "gpt-transcribe", "gpt-4o-transcribe", "gpt-4o-mini-transcribe",
        "gpt-4o-mini-transcribe-2025-12-15",
    }
)  # fmt: skip
"""Names that clients are set to; each means the model that is served (AudioModel in openai 3)."""
WITHOUT_STREAM = "whisper-1"
"""OpenAI's API: streaming "is not supported for the whisper-1 model and will be ignored"."""


class Transcription(Answer, frozen=True, kw_only=True):
    """What was said."""

    text: str


def _plain(text: str) -> Response[Any]:
    return Response(text, media_type=MediaType.TEXT)


FORMATS: dict[str, Callable[[Transcript], Response[Any]]] = {
    "json": lambda said: Response(Transcription(text=said.text)),
    "text": lambda said: _plain(said.text + "\n"),
    "srt": lambda said: _plain(srt(said)),
    "vtt": lambda said: _plain(vtt(said)),
    "verbose_json": lambda said: Response(verbose(said)),
}


class TranscriptionForm(RecordingForm, frozen=True, kw_only=True):
    """The form's text fields, by OpenAI's names and with its defaults."""

    model: Annotated[str, Meta(max_length=200)]
    language: Annotated[str, Meta(max_length=40)] | None = None
    response_format: Annotated[str, Meta(max_length=40)] = "json"
    stream: bool = False
    timestamp_granularities: tuple[Literal["segment", "word"], ...] = ()
    include: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    prompt: str | None = None
    keywords: tuple[str, ...] = ()
    temperature: Annotated[float, Meta(ge=0, le=1)] = 0.0
    chunking_strategy: Literal["auto"] | None = None


def _list(*values: str) -> Schema:
    items = Schema(type=OpenAPIType.STRING, enum=list(values) or None)
    return Schema(type=OpenAPIType.ARRAY, items=items)


_BODY = Schema(
    type=OpenAPIType.OBJECT,
    required=["file", "model"],
    properties={
        "file": BYTES,
        "model": TEXT,
        "language": TEXT,
        "languages[]": _list(),
        "prompt": TEXT,
        "keywords[]": _list(),
        "response_format": Schema(type=OpenAPIType.STRING, enum=list(FORMATS), default="json"),
        "temperature": NUMBER,
        "timestamp_granularities[]": _list("segment"),
        "chunking_strategy": Schema(type=OpenAPIType.STRING, enum=["auto"]),
        "stream": TRUTH,
        **FORM_FIELDS,
    },
)


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
        "openapi_body": {"multipart/form-data": _BODY},
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
    if form.stream and form.model != WITHOUT_STREAM:
        return ServerSentEvent(_events(transcript))
    return FORMATS[form.response_format](transcript)


def check_output(form: TranscriptionForm) -> None:
    """Raise `RequestError` (`unsupported_value`) for an answer that nobody here can give."""
    if form.response_format not in FORMATS:
        raise _unsupported(
            "response_format", f"must be one of {', '.join(FORMATS)}: speakers are not told apart"
        )
    if "word" in form.timestamp_granularities:
        raise _unsupported(
            "timestamp_granularities[]", "must be 'segment': the model does not time single words"
        )
    if form.include:
        raise _unsupported(
            "include[]", "must be left out; verbose_json tells each segment's avg_logprob"
        )
    if form.stream and form.model != WITHOUT_STREAM and form.response_format != "json":
        raise _unsupported("response_format", "must be json where stream is true")


async def check_model(form: TranscriptionForm, inference: Inference, values: KeyValue) -> None:
    """Raise `NotFound` (`model_not_found`) or `RequestError` (`language_not_available`)."""
    try:
        served = await serving("transcribe", inference, values)
    except Unavailable:  # no reason to refuse what may become a task; the worker will know
        return
    if form.model not in OPENAI_MODELS | {served.name}:
        raise NotFound(
            "model_not_found",
            f"there is no model {form.model!r}; send model={served.name}, or whisper-1, "
            "which means the same",
            field="model",
        )
    own = served.parameters["language"]
    for language in filter(None, (form.language, *form.languages)):
        if language.lower() not in {own, LANGUAGES.get(own)}:
            field = "language" if language == form.language else "languages[]"
            raise RequestError(
                "language_not_available",
                f"{field} may be {own} ({LANGUAGES.get(own, own)}) alone: {served.name} knows no "
                "other; leave it out, or have a model of another language switched in",
                field=field,
            )


def _unsupported(field: str, rule: str) -> RequestError:
    return RequestError("unsupported_value", f"{field} {rule}", field=field)


async def _events(transcript: Transcript) -> AsyncIterator[ServerSentEventMessage]:
    """The text in pieces, then whole, as OpenAI's transcript events."""
    said = [segment.text for segment in transcript.segments if segment.text]
    for number, text in enumerate(said):
        yield _event("transcript.text.delta", delta=f" {text}" if number else text)
    yield _event("transcript.text.done", text=transcript.text)


def _event(kind: str, **facts: str) -> ServerSentEventMessage:
    data = msgspec.json.encode({"type": kind, **facts}).decode()
    return ServerSentEventMessage(event=kind, data=data)
