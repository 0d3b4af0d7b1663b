"""POST /api/v1/media: a photo comes in, is looked at, and lies in the bucket."""

from __future__ import annotations

import tempfile
from pathlib import Path

from litestar import post
from litestar.openapi.spec import OpenAPIFormat, OpenAPIType, Schema
from litestar.params import FromQuery

from functions._kit.errors import Conflict, Unprocessable
from functions._kit.http import HttpRequest, Port, Principal
from functions._kit.incoming import receive_picture
from functions._kit.keys import OWN_PREFIXES, object_key
from functions._kit.messages import Answer, new_id
from functions._kit.pictures import FORMATS
from functions._kit.policy import HttpPolicy
from functions._kit.ports import Limits, Objects, PictureDecoder

_BYTES = Schema(type=OpenAPIType.STRING, format=OpenAPIFormat.BINARY)


class Uploaded(Answer, frozen=True, kw_only=True):
    """What was stored, and where."""

    media_id: str
    file_path: str
    size: int
    content_type: str
    width: int
    height: int
    sha256: str


@post(
    "/api/v1/media",
    status_code=201,
    summary="Upload a photo",
    request_max_body_size=None,  # it is streamed, and counted by the operator's own limit
    opt={
        "policy": HttpPolicy(scope="media:write", concurrency=64, timeout_s=3600.0),
        "openapi_body": {
            "multipart/form-data": Schema(
                type=OpenAPIType.OBJECT,
                required=["file"],
                properties={"file": _BYTES, "path": Schema(type=OpenAPIType.STRING)},
            ),
            "application/octet-stream": _BYTES,
        },
    },
)
async def upload(
    request: HttpRequest,
    principal: Port[Principal],
    objects: Port[Objects],
    pictures: Port[PictureDecoder],
    limits: Port[Limits],
    scratch: Port[Path],
    path: FromQuery[str | None] = None,
) -> Uploaded:
    """A form (`file`, `path`) or the bytes as they are (`?path=`).

    The body goes to a file first and to the bucket once it is known to be a photo, so that
    nothing that was refused is ever stored. Its type is decided by its content.
    """
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        file = Path(folder) / "upload"
        received, info = await receive_picture(
            request,
            file,
            pictures,
            limit_bytes=limits.max_upload_bytes,
            max_pixels=limits.max_pixels,
        )
        media_id = new_id()
        wanted = received.fields.get("path", path)
        if wanted is None:
            key = f"uploads/{principal.client_id}/{media_id}{FORMATS[info.format].suffix}"
        else:
            key = await _free_key(wanted, objects, limits.reserved_prefixes)
        await objects.upload(file, key, info.content_type)
    return Uploaded(
        media_id=media_id,
        file_path=key,
        size=received.size_bytes,
        content_type=info.content_type,
        width=info.width,
        height=info.height,
        sha256=received.sha256,
    )


async def _free_key(path: str, objects: Objects, models: tuple[str, ...]) -> str:
    """The caller's own path, if nothing lies there: an upload never replaces a file."""
    key = object_key(path, "path")
    reserved = OWN_PREFIXES + models
    if key.startswith(reserved):
        raise Unprocessable(
            "reserved_path",
            f"path may not begin with {', '.join(reserved)}: Nereid writes there itself",
            field="path",
        )
    if await objects.head(key) is not None:
        raise Conflict("file_exists", f"{key!r} exists already; choose another path", field="path")
    return key
