"""GET /: a live console for people, made of the HTTP interface alone."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Annotated

from litestar import Response, get
from litestar.openapi import ResponseSpec
from litestar.params import FromPath, HeaderParameter

from functions._kit.errors import NotFound
from functions._kit.policy import HttpPolicy

PAGE = "index.html"
MEDIA_TYPES = {
    "html": "text/html",
    "css": "text/css",
    "js": "text/javascript",
    "svg": "image/svg+xml",
}
"""By suffix; a file of any other is never served. Litestar adds the charset to text."""

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    # presigned URLs of pictures and recordings lead to S3, which has an address of its own
    "img-src 'self' blob: data: http: https:; media-src http: https:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    # the browser itself refuses innerHTML and its kin
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}

IfNoneMatch = Annotated[str | None, HeaderParameter(name="If-None-Match")]
_NOT_MODIFIED = {304: ResponseSpec(None, description="The copy with this ETag is still good")}


@dataclass(frozen=True, slots=True)
class StaticFile:
    """A file of the console, its media type, and a tag that changes with its content."""

    content: bytes
    media_type: str
    etag: str


@get(
    "/",
    summary="The console, a page for people",
    media_type="text/html",
    responses=_NOT_MODIFIED,
    opt={"policy": HttpPolicy(scope=None)},
)
async def console(if_none_match: IfNoneMatch = None) -> Response[bytes]:
    """The page itself is public; what it shows is asked for with the reader's credentials."""
    return _answer(files()[PAGE], if_none_match)


@get(
    "/console/{name:str}",
    summary="A file of the console: script, style or icon",
    media_type="text/javascript",
    responses=_NOT_MODIFIED,
    opt={"policy": HttpPolicy(scope=None), "openapi_errors": ("404",)},
)
async def console_file(name: FromPath[str], if_none_match: IfNoneMatch = None) -> Response[bytes]:
    """Raises `NotFound` for what the console does not consist of."""
    file = files().get(name)
    if file is None:
        raise NotFound("not_found", f"the console has no file {name[:64]!r}", field="name")
    return _answer(file, if_none_match)


@cache
def files() -> dict[str, StaticFile]:
    """Every file of the console by its name, read once."""
    found = {}
    for entry in resources.files(__name__).iterdir():
        media_type = MEDIA_TYPES.get(entry.name.rpartition(".")[2])
        if entry.is_file() and media_type is not None:
            content = entry.read_bytes()
            etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
            found[entry.name] = StaticFile(content, media_type, etag)
    return found


def _answer(file: StaticFile, if_none_match: str | None) -> Response[bytes]:
    headers = HEADERS | {"ETag": file.etag}
    known = [tag.strip().removeprefix("W/") for tag in (if_none_match or "").split(",")]
    if file.etag in known or known == ["*"]:
        return Response(b"", status_code=304, headers=headers, media_type=file.media_type)
    return Response(file.content, headers=headers, media_type=file.media_type)
