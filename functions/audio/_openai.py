"""OpenAI's form of a transcription: its fields, and what of them can be met."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from litestar import MediaType, Response
from litestar.openapi.spec import OpenAPIType, Schema
from msgspec import Meta

from functions._kit.capabilities import serving
from functions._kit.errors import NotFound, RequestError, Unavailable
from functions._kit.messages import Answer
from functions._kit.ports import Inference, KeyValue
from functions.audio._formats import LANGUAGES, srt, verbose, vtt
from functions.audio._intake import BYTES, FORM_FIELDS, NUMBER, TEXT, TRUTH, RecordingForm
from functions.audio.contracts import Transcript

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


BODY = Schema(
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


def streams(form: TranscriptionForm) -> bool:
    """Whether the answer comes as events."""
    return form.stream and form.model != WITHOUT_STREAM


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
    if streams(form) and form.response_format != "json":
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
