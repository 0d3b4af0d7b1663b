"""What the functions that take recordings share: the form, and words at once."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
from litestar.di import Provide
from litestar.openapi.spec import OpenAPIFormat, OpenAPIType, Schema
from msgspec import Meta

from functions._kit.callbacks import check_callback
from functions._kit.errors import RequestError, Unprocessable, UnsupportedMedia
from functions._kit.http import HttpRequest, Port, Received, receive
from functions._kit.in_flight import InFlight
from functions._kit.messages import Request
from functions._kit.ports import (
    SPEECH,
    AudioConverter,
    AudioTooLong,
    Figures,
    Inference,
    KeyValue,
    Limits,
    Objects,
    Stream,
    TaskStore,
)
from functions.audio._converted import Converted, convert_once
from functions.audio._transcriber import transcribe
from functions.audio.contracts import LONGEST_AT_ONCE_S, Transcript

MOST_LETTERS = 300
"""Of a complaint, which may repeat what the caller has sent."""
URGENT = 1
"""Triton's first priority: somebody waits, and for a minute of sound at most."""

BYTES = Schema(type=OpenAPIType.STRING, format=OpenAPIFormat.BINARY)
TEXT = Schema(type=OpenAPIType.STRING)
NUMBER = Schema(type=OpenAPIType.NUMBER)
TRUTH = Schema(type=OpenAPIType.BOOLEAN)
FORM_FIELDS = {
    "async": TRUTH,
    "priority": Schema(type=OpenAPIType.INTEGER, minimum=1, maximum=10, default=5),
    "callback_url": Schema(type=OpenAPIType.STRING, format=OpenAPIFormat.URI),
}
"""Those of `RecordingForm`, for the API's description."""


class RecordingForm(Request, frozen=True, kw_only=True):
    """What every form with a recording may say; `async` makes it a task, the rest is for tasks."""

    as_task: bool = msgspec.field(default=False, name="async")
    priority: Annotated[int, Meta(ge=1, le=10)] = 5
    callback_url: Annotated[str, Meta(max_length=2048)] | None = None


Form = TypeVar("Form", bound=RecordingForm)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """What a recording is taken with."""

    converter: AudioConverter
    objects: Objects
    in_flight: InFlight
    inference: Inference
    values: KeyValue
    figures: Figures
    stream: Stream
    store: TaskStore
    limits: Limits
    scratch: Path


def recording_ports(
    converter: Port[AudioConverter],
    objects: Port[Objects],
    in_flight: Port[InFlight],
    inference: Port[Inference],
    values: Port[KeyValue],
    figures: Port[Figures],
    stream: Port[Stream],
    store: Port[TaskStore],
    limits: Port[Limits],
    scratch: Port[Path],
) -> Ports:
    """The dependency `ports` of handlers that take recordings: see `RECORDING`."""
    return Ports(
        converter=converter, objects=objects, in_flight=in_flight, inference=inference,
        values=values, figures=figures, stream=stream, store=store, limits=limits, scratch=scratch,
    )  # fmt: skip


RECORDING = {"ports": Provide(recording_ports, sync_to_thread=False)}
"""For `dependencies` of a handler: gives it all of these as `ports: Port[Ports]`."""


@dataclass(frozen=True, slots=True)
class Recording:
    """An upload in a folder of its own."""

    file: Path
    sha256: str


async def receive_form(
    request: HttpRequest, folder: Path, form: type[Form], limits: Limits, *, file_field: str
) -> tuple[Recording, Form]:
    """Write the recording to `folder` as it comes, and read the form around it.

    Raises as `receive` does, `UnsupportedMedia` (`form_expected`), and `Unprocessable`
    (`invalid_request`, `invalid_callback_url`) with the field.
    """
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise UnsupportedMedia(
            "form_expected",
            f"send a multipart/form-data form with the recording as the field {file_field!r}",
            field=file_field,
        )
    file = folder / "recording"
    received = await receive(
        request, file, limit_bytes=limits.max_upload_bytes, file_field=file_field
    )
    fields = read_form(received, form)
    if fields.callback_url is not None:
        check_callback(fields.callback_url, allow_private=limits.allow_private_callbacks)
    return Recording(file, received.sha256), fields


def read_form(received: Received, form: type[Form]) -> Form:
    """The text fields of a form. An empty one is one that was left out, as browsers send it.

    Raises `Unprocessable` (`invalid_request`) that names the field.
    """
    given = {name: text for name, text in received.fields.items() if text} | received.lists
    try:
        return msgspec.convert(given, form, strict=False)
    except msgspec.ValidationError as error:
        message = str(error)[:MOST_LETTERS]
        found = re.search(r"(?:\$\.|field `)(\w{1,64})", message)
        name = found[1] if found else "body"
        name += "[]" if name in received.lists else ""
        raise Unprocessable("invalid_request", f"{name}: {message}", field=name) from error


@dataclass(frozen=True, slots=True)
class Heard:
    """A recording as words, and where its conversion is."""

    transcript: Transcript
    converted: Converted


async def hear(
    recording: Recording, form: RecordingForm, ports: Ports, *, file_field: str, stored: bool
) -> Heard | None:
    """What is said in the recording; None where it shall, or must, become a task.

    Every recording goes to the converter first: what cannot be read is refused at once, even if
    it shall be a task. `stored` is `convert_once`'s. Raises as it and `transcribe` do, and
    `AudioTooLong` for what is too long for a task, too, where the header tells.
    """
    wav = recording.file.with_name("speech.wav")
    try:
        converted = await convert_once(
            recording.file,
            recording.sha256,
            wav,
            SPEECH,
            converter=ports.converter,
            objects=ports.objects,
            in_flight=ports.in_flight,
            limits=ports.limits,
            longest_s=LONGEST_AT_ONCE_S,
            stored=stored,
        )
    except AudioTooLong as error:
        check_length(error.duration_s, ports.limits, file_field)
        return None
    except RequestError as error:
        if error.field in {None, file_field}:
            raise
        # a new one: all who wait for the same conversion get the same error
        raise type(error)(error.code, error.message, field=file_field) from error
    if form.as_task:
        return None
    transcript = await transcribe(
        wav, ports.inference, ports.values, ports.figures, priority=URGENT
    )
    return Heard(transcript, converted)


def check_length(duration_s: float | None, limits: Limits, file_field: str) -> None:
    """Raise `AudioTooLong` for a recording that no task would take; None is any length."""
    if duration_s is not None and duration_s > limits.max_audio_s:
        raise AudioTooLong(
            "audio_too_long",
            f"a recording may last {limits.max_audio_s:g} s at most, and this one lasts "
            f"{duration_s:.0f} s: send it in parts",
            field=file_field,
            duration_s=duration_s,
        )
