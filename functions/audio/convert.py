"""POST /api/v1/audio:convert: sound of any kind comes in, WAV, FLAC or MP3 goes out."""

from __future__ import annotations

import asyncio
import re
import tempfile
from pathlib import Path
from urllib.parse import quote

import msgspec
from litestar import post
from litestar.datastructures import ResponseHeader
from litestar.openapi.spec import OpenAPIFormat, OpenAPIType, Schema
from litestar.params import FromQuery

from functions._kit.errors import Unprocessable
from functions._kit.http import HttpRequest, Port, receive, while_connected
from functions._kit.in_flight import InFlight
from functions._kit.messages import Request
from functions._kit.open_file import OpenFile
from functions._kit.policy import HttpPolicy
from functions._kit.ports import (
    AUDIO_TYPES,
    SPEECH,
    AudioConverter,
    AudioFormat,
    AudioTarget,
    AudioTooLong,
    Limits,
    Objects,
)
from functions._kit.sound import check_target
from functions.audio._converted import SAMPLE_BYTES, Converted, convert_once

MOST_NAME_LETTERS = 100
_BYTES = Schema(type=OpenAPIType.STRING, format=OpenAPIFormat.BINARY)
_FIELDS = {
    "target": Schema(type=OpenAPIType.STRING, enum=list(AUDIO_TYPES), default=SPEECH.format),
    "sample_rate": Schema(type=OpenAPIType.INTEGER, default=SPEECH.sample_rate),
    "channels": Schema(type=OpenAPIType.INTEGER, default=SPEECH.channels),
}


class _Wanted(Request, frozen=True, kw_only=True):
    """The target as a caller names it."""

    target: AudioFormat = SPEECH.format
    sample_rate: int = SPEECH.sample_rate
    channels: int = SPEECH.channels

    def checked(self) -> AudioTarget:
        """Raises `Unprocessable` (code `unsupported_target`)."""
        target = AudioTarget(
            format=self.target, sample_rate=self.sample_rate, channels=self.channels
        )
        check_target(target)
        return target


@post(
    "/api/v1/audio:convert",
    status_code=200,
    summary="Convert sound",
    media_type="audio/wav",
    response_headers=[
        ResponseHeader(name=name, description=text, documentation_only=True)
        for name, text in {
            "Content-Disposition": "The name that came, with the new suffix",
            "Nereid-Audio-Duration": "Seconds of sound",
            "Nereid-Cache": "hit: converted before, or by another request just now; or miss",
        }.items()
    ],
    request_max_body_size=None,  # it is streamed, and counted by the operator's own limit
    opt={
        "policy": HttpPolicy(
            scope="audio:write", concurrency=256, busy_status=429, timeout_s=3600.0
        ),
        "openapi_body": {
            "multipart/form-data": Schema(
                type=OpenAPIType.OBJECT, required=["file"], properties={"file": _BYTES, **_FIELDS}
            ),
            "application/octet-stream": _BYTES,
        },
        "openapi_answers": dict.fromkeys(AUDIO_TYPES.values(), _BYTES),
    },
)
async def convert(
    request: HttpRequest,
    converter: Port[AudioConverter],
    objects: Port[Objects],
    in_flight: Port[InFlight],
    limits: Port[Limits],
    scratch: Port[Path],
    target: FromQuery[AudioFormat] = SPEECH.format,
    sample_rate: FromQuery[int] = SPEECH.sample_rate,
    channels: FromQuery[int] = SPEECH.channels,
) -> OpenFile:
    """A form (`file`, `target`, `sample_rate`, `channels`) or the bytes as they are (`?target=`).

    What comes is decided by its content; its first audio stream is converted. What goes out has
    samples of 16 bits. The same bytes with the same target are converted once a day.
    """
    query = _Wanted(target=target, sample_rate=sample_rate, channels=channels)
    query.checked()  # before gigabytes come for nothing
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        source, file = Path(folder) / "source", Path(folder) / "converted"
        received = await receive(request, source, limit_bytes=limits.max_upload_bytes)
        wanted = _with_fields(query, received.fields).checked()

        async def work() -> Converted:
            return await convert_once(
                source,
                received.sha256,
                file,
                wanted,
                converter=converter,
                objects=objects,
                in_flight=in_flight,
                limits=limits,
                longest_s=longest_s,
            )

        longest_s = min(limits.max_audio_s, _most_s(wanted, limits))
        try:
            converted = await while_connected(request, work())
        except AudioTooLong as error:
            if longest_s < limits.max_audio_s:
                raise _too_large(wanted, limits) from error
            raise
        # It is sent from the open file: without a name from here on, it ends with this answer.
        content = await asyncio.to_thread(file.open, "rb")
    return OpenFile(
        content,
        size_bytes=converted.size_bytes,
        headers={
            "Content-Type": AUDIO_TYPES[wanted.format],
            "Content-Disposition": disposition(received.filename, wanted.format),
            "Nereid-Audio-Duration": f"{converted.duration_s:.3f}",
            "Nereid-Cache": "hit" if converted.cached else "miss",
        },
    )


def _with_fields(query: _Wanted, fields: dict[str, str]) -> _Wanted:
    """The form's own words come before those of the query."""
    named = {name: fields[name] for name in _FIELDS if name in fields}
    try:
        form = msgspec.convert(named, _Wanted, strict=False)
    except msgspec.ValidationError as error:
        rule, _, place = str(error).partition(" - at `$.")
        field = place.rstrip("`")
        raise Unprocessable("invalid_request", f"{field}: {rule}", field=field) from error
    return msgspec.structs.replace(query, **{name: getattr(form, name) for name in named})


def _most_s(target: AudioTarget, limits: Limits) -> float:
    """Seconds of sound whose samples fit into the largest file that is taken."""
    return limits.max_upload_bytes / (target.sample_rate * target.channels * SAMPLE_BYTES)


def _too_large(target: AudioTarget, limits: Limits) -> Unprocessable:
    return Unprocessable(
        "conversion_too_large",
        f"at sample_rate {target.sample_rate} and channels {target.channels} the sound may last "
        f"{_most_s(target, limits):.0f} s at most, or its samples would have more than "
        f"{limits.max_upload_bytes} bytes; take a lower sample_rate, or send it in parts",
        field="sample_rate",
    )


def disposition(filename: str | None, suffix: str) -> str:
    """Content-Disposition (RFC 6266) with the upload's own name and another suffix.

    Whatever the name holds: no folder, nothing that could end the header, and its own letters
    for those who read RFC 8187.
    """
    name = re.split(r"[/\\]", filename or "")[-1]
    stem = re.sub(r"[\x00-\x1f\x7f]", "", name.rpartition(".")[0] or name).strip(" .")
    full = f"{stem[:MOST_NAME_LETTERS] or 'audio'}.{suffix}"
    plain = re.sub(r"[^ -~]|[\"\\%;]", "_", full)
    if plain == full:
        return f'attachment; filename="{plain}"'
    letters = quote(full.encode("utf-8", "replace"), safe="")
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{letters}"
