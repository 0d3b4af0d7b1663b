"""POST /api/v1/translate_audio: a recording becomes words, and what the caller makes of them."""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

from litestar import Response, post
from litestar.openapi import ResponseSpec
from litestar.openapi.spec import OpenAPIType, Schema
from msgspec import Meta

from functions._kit.http import HttpRequest, IdempotencyKey, Port, Principal, while_connected
from functions._kit.messages import Answer
from functions._kit.policy import HttpPolicy
from functions._kit.ports import (
    LanguageModel,
)
from functions.audio._converted import url_of
from functions.audio._intake import (
    BYTES,
    FORM_FIELDS,
    RECORDING,
    TEXT,
    Ports,
    RecordingForm,
    hear,
    receive_form,
)
from functions.audio._prompting import translation_of, wanted
from functions.audio._tasks import start_task
from functions.audio.contracts import TranslationError
from functions.tasks.contracts import TaskAccepted

FILE = "audio_file"
AT_ONCE = 100
"""Clips of 10 s are answered within a quarter of a minute then; who comes later had better know."""
LONGEST_TRANSLATION_S = 20.0
"""A model that is slower is answered without: nobody shall lose the transcription to it."""


class TranslateForm(RecordingForm, frozen=True, kw_only=True):
    """The text fields beside the recording."""

    user_prompt: Annotated[str, Meta(max_length=4096)] | None = None


class AudioLink(Answer, frozen=True, kw_only=True):
    """The recording as speech recognition heard it: WAV, 16 kHz, mono."""

    url: str


class Translated(Answer, frozen=True, kw_only=True, omit_defaults=True):
    """What was said; where there was a prompt, what the language model made of it, or why not."""

    status: str
    transcription: str
    duration: float
    """Of the recording, in seconds."""
    language: str
    model: str
    """What wrote it down, and in which version."""
    model_version: str
    processing_time: float
    """In seconds, from the upload's last byte on."""
    audio: AudioLink
    translation: str | None = None
    translation_error: TranslationError | None = None


@post(
    "/api/v1/translate_audio",
    status_code=200,
    summary="Transcribe a recording, and translate it or answer a prompt about it",
    request_max_body_size=None,  # counted while it comes
    responses={
        200: ResponseSpec(Translated, description="What was said"),
        202: ResponseSpec(TaskAccepted, description="Over 60 s, or `async`: it became a task"),
    },
    dependencies=RECORDING,
    opt={
        "policy": HttpPolicy(
            scope="audio:write", concurrency=AT_ONCE, busy_status=429, timeout_s=3600.0
        ),
        "openapi_body": {
            "multipart/form-data": Schema(
                type=OpenAPIType.OBJECT,
                required=[FILE],
                properties={FILE: BYTES, "user_prompt": TEXT, **FORM_FIELDS},
            )
        },
    },
)
async def translate(
    request: HttpRequest,
    principal: Port[Principal],
    ports: Port[Ports],
    language_model: Port[LanguageModel],
    idempotency_key: IdempotencyKey = None,
) -> Response[Any]:
    """Up to 60 s are answered at once; longer recordings, and `async=true`, become a task: 202.

    `user_prompt` is put to the language model with the transcription. Where that gives no answer
    within 20 s, `translation_error` says why, and the rest is as it is without a prompt.
    """

    async def answer_at_once() -> Translated | None:
        heard = await hear(recording, form, ports, file_field=FILE, stored=True)
        if heard is None:
            return None
        text = heard.transcript.text
        translation, problem = await _translation(language_model, text, form.user_prompt)
        return Translated(
            status="success",
            transcription=text,
            duration=heard.transcript.duration,
            language=heard.transcript.language,
            model=heard.transcript.model,
            model_version=heard.transcript.model_version,
            processing_time=round(time.monotonic() - began, 3),
            audio=AudioLink(
                url=await url_of(heard.converted, objects=ports.objects, limits=ports.limits)
            ),
            translation=translation,
            translation_error=problem,
        )

    with tempfile.TemporaryDirectory(dir=ports.scratch) as folder:
        recording, form = await receive_form(
            request, Path(folder), TranslateForm, ports.limits, file_field=FILE
        )
        began = time.monotonic()
        answer = await while_connected(request, answer_at_once())
        if answer is not None:
            return Response(answer)
        return await start_task(
            recording,
            form,
            ports,
            client_id=principal.client_id,
            idempotency_key=idempotency_key,
            user_prompt=form.user_prompt if wanted(form.user_prompt) else None,
        )


async def _translation(
    model: LanguageModel, transcription: str, user_prompt: str | None
) -> tuple[str | None, TranslationError | None]:
    """As `translation_of`, but only for so long."""
    try:
        async with asyncio.timeout(LONGEST_TRANSLATION_S):
            return await translation_of(model, transcription, user_prompt)
    except TimeoutError:
        message = (
            f"the language model did not answer within {LONGEST_TRANSLATION_S:g} s; "
            "send async=true to have a task wait for it"
        )
        return None, TranslationError(code="language_model_busy", message=message)
