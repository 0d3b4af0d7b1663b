from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

import httpx
import pytest

if TYPE_CHECKING:
    from tests.functions.conftest import World

AssertProblem = Callable[..., dict[str, Any]]
PATH = "/api/v1/media"
LIMIT = 200_000
FORM = "multipart/form-data; boundary=line"


def part(name: str, content: bytes, filename: str | None = None) -> bytes:
    """One part of a form with the boundary `line`."""
    suffix = "" if filename is None else f'; filename="{filename}"'
    head = f'--line\r\nContent-Disposition: form-data; name="{name}"{suffix}\r\n\r\n'
    return head.encode() + content + b"\r\n"


async def pieces(content: bytes, size_bytes: int = 1000) -> AsyncIterator[bytes]:
    for at in range(0, len(content), size_bytes):
        yield content[at : at + size_bytes]


def bomb() -> bytes:
    """A PNG of 65,500 x 65,500 pixels in 100 bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", 65_500, 65_500, 8, 2, 0, 0, 0)
    packed = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + packed + chunk(b"IEND", b"")


@pytest.fixture
def nothing_stored(world: World) -> Any:
    """After the test, the bucket and the scratch folder are as empty as before."""
    yield
    assert not world.objects.contents
    assert not list(world.scratch.iterdir())


@pytest.mark.parametrize("way", ["raw", "raw in chunks", "form", "form in chunks"])
async def test_a_photo_lies_in_the_bucket_as_it_was_sent(
    world: World, alice: httpx.AsyncClient, photo: bytes, way: str
) -> None:
    form = part("note", b"hello") + part("file", photo, "cat.png") + b"--line--\r\n"
    content = form if way.startswith("form") else photo
    answer = await alice.post(
        PATH,
        content=pieces(content, 7) if way.endswith("chunks") else content,
        headers={"content-type": FORM if way.startswith("form") else "text/plain"},
    )
    assert answer.status_code == 201, answer.text
    body = answer.json()
    assert body == {
        "media_id": body["media_id"],
        "file_path": f"uploads/alice/{body['media_id']}.jpg",
        "size": len(photo),
        "content_type": "image/jpeg",
        "width": 12,
        "height": 8,
        "sha256": hashlib.sha256(photo).hexdigest(),
    }
    assert world.objects.contents == {body["file_path"]: photo}
    info = await world.objects.head(body["file_path"])
    assert info is not None
    assert info.content_type == "image/jpeg"
    assert not list(world.scratch.iterdir())


async def test_what_was_uploaded_can_be_processed(alice: httpx.AsyncClient, photo: bytes) -> None:
    path = (await alice.post(PATH, content=photo)).json()["file_path"]
    body = {"file_path": path, "workflow": "nas-photo-processing"}
    assert (await alice.post("/api/v1/media:process", json=body)).status_code == 202


@pytest.mark.parametrize("form", [True, False])
async def test_a_photo_goes_where_its_sender_wants(
    world: World, alice: httpx.AsyncClient, photo: bytes, *, form: bool
) -> None:
    path = "/holidays 2026/Übung #1.jpg"
    if form:
        answer = await alice.post(PATH, files={"file": photo}, data={"path": path})
    else:
        answer = await alice.post(PATH, content=photo, params={"path": path})
    assert answer.status_code == 201, answer.text
    assert answer.json()["file_path"] == path.removeprefix("/")
    assert list(world.objects.contents) == [path.removeprefix("/")]


async def test_an_upload_never_replaces_a_file(
    world: World, alice: httpx.AsyncClient, photo: bytes, assert_problem: AssertProblem
) -> None:
    first, answer = [
        await alice.post(PATH, content=photo, params={"path": "cat.jpg"}) for _ in range(2)
    ]
    assert first.status_code == 201
    assert_problem(answer, 409, "file_exists", "path")
    assert len(world.objects.contents) == 1


@pytest.mark.usefixtures("nothing_stored")
@pytest.mark.parametrize(
    ("path", "code"),
    [("results/x.jpg", "reserved_path"), ("/uploads/bob/x.jpg", "reserved_path")]
    + [(path, "invalid_file_path") for path in ("../x", "a//b", "", "a/../b", "a\0b", "a\\b")],
)
@pytest.mark.parametrize("form", [True, False])
async def test_a_path_of_ours_or_of_no_place_is_refused(
    alice: httpx.AsyncClient,
    photo: bytes,
    assert_problem: AssertProblem,
    path: str,
    code: str,
    *,
    form: bool,
) -> None:
    if form:
        answer = await alice.post(PATH, files={"file": photo}, data={"path": path})
    else:
        answer = await alice.post(PATH, content=photo, params={"path": path})
    assert_problem(answer, 422, code, "path")


@pytest.mark.usefixtures("nothing_stored")
@pytest.mark.parametrize("content", [b"just some text", b"\xff\xd8", b"<svg/>", b"%PDF-1.7"])
async def test_what_is_no_photo_is_refused_whatever_its_name(
    alice: httpx.AsyncClient, assert_problem: AssertProblem, content: bytes
) -> None:
    files = {"file": ("cat.jpg", content, "image/jpeg")}
    answer = await alice.post(PATH, files=files)
    body = assert_problem(answer, 415, "unsupported_media_type", "file")
    assert "image/jpeg, image/png" in body["detail"]


@pytest.mark.usefixtures("nothing_stored")
async def test_a_bomb_is_refused_unopened(
    alice: httpx.AsyncClient, assert_problem: AssertProblem
) -> None:
    content = bomb()
    assert len(content) < 150
    answer = await alice.post(PATH, content=content)
    assert_problem(answer, 422, "picture_too_large", "file")


@pytest.mark.usefixtures("nothing_stored")
async def test_a_header_without_a_picture_is_refused(
    alice: httpx.AsyncClient, assert_problem: AssertProblem
) -> None:
    answer = await alice.post(PATH, content=b"\x89PNG\r\n\x1a\n")
    assert_problem(answer, 422, "corrupt_picture", "file")


@pytest.mark.usefixtures("nothing_stored")
@pytest.mark.parametrize(
    "request_of",
    [
        {"content": b""},
        {"content": pieces(b"")},
        {"files": {"file": b""}},
        {"files": {"file": ("cat.jpg", b"")}, "data": {"path": "x.jpg"}},
    ],
    ids=["raw", "chunked", "form", "form with path"],
)
async def test_no_bytes_are_no_photo(
    alice: httpx.AsyncClient, assert_problem: AssertProblem, request_of: dict[str, Any]
) -> None:
    assert_problem(await alice.post(PATH, **request_of), 422, "empty_body", "file")


@pytest.mark.usefixtures("nothing_stored")
@pytest.mark.parametrize("form", [True, False])
@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_beyond_the_limit_is_refused_before_it_is_read(
    alice: httpx.AsyncClient, assert_problem: AssertProblem, *, form: bool, declared: bool
) -> None:
    size_bytes, sent = 100 * LIMIT, 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal sent
        yield part("file", b"", "cat.jpg").removesuffix(b"\r\n") if form else b""
        while sent < size_bytes:
            sent += 10_000
            yield bytes(10_000)

    headers = {"content-type": FORM if form else "image/jpeg"}
    if declared:
        headers["content-length"] = str(size_bytes)
    answer = await alice.post(PATH, content=body(), headers=headers)
    assert_problem(answer, 413, "body_too_large", "file")
    assert sent <= (0 if declared else LIMIT + 10_000)


async def test_a_body_at_the_limit_is_taken(
    make_world: Callable[..., World], photo: bytes, assert_problem: AssertProblem
) -> None:
    world = make_world(max_upload_bytes=len(photo))
    alice = await world.caller("alice", "media:write")
    for request in ({"content": photo}, {"files": {"file": photo}}):
        assert (await alice.post(PATH, **request)).status_code == 201
    for request in ({"content": photo + b"\0"}, {"files": {"file": photo + b"\0"}}):
        answer = await alice.post(PATH, **request)
        assert_problem(answer, 413, "body_too_large", "file")


@pytest.mark.usefixtures("nothing_stored")
@pytest.mark.parametrize(
    ("content", "content_type", "code", "where"),
    [
        (part("file", b"abc"), FORM, "invalid_form", "body"),
        (b"", FORM, "invalid_form", "body"),
        (b"no boundary at all", FORM, "invalid_form", "body"),
        (b"--line\r\nNonsense\r\n\r\nx\r\n--line--\r\n", FORM, "invalid_form", "body"),
        (b"--line--\r\n", FORM, "file_missing", "file"),
        (part("photo", b"abc") + b"--line--\r\n", FORM, "file_missing", "file"),
        (part("path", b"x.jpg") + b"--line--\r\n", FORM, "file_missing", "file"),
        (b"x", "multipart/form-data", "invalid_form", "body"),
        (part("a", b"b") * 100 + b"--line--\r\n", FORM, "invalid_form", "body"),
    ],
)
async def test_a_broken_form_is_refused(
    alice: httpx.AsyncClient,
    assert_problem: AssertProblem,
    content: bytes,
    content_type: str,
    code: str,
    where: str,
) -> None:
    headers = {"content-type": content_type}
    answer = await alice.post(PATH, content=content, headers=headers)
    assert_problem(answer, 422, code, where)


@pytest.mark.usefixtures("nothing_stored")
async def test_a_form_field_has_a_bound(
    alice: httpx.AsyncClient, photo: bytes, assert_problem: AssertProblem
) -> None:
    answer = await alice.post(PATH, files={"file": photo}, data={"path": "x" * 100_000})
    assert_problem(answer, 400, "field_too_long", "path")


@pytest.mark.usefixtures("nothing_stored")
async def test_two_files_in_one_form_are_refused(
    alice: httpx.AsyncClient, photo: bytes, assert_problem: AssertProblem
) -> None:
    files = [("file", photo), ("file", photo)]
    answer = await alice.post(PATH, files=files)
    assert_problem(answer, 422, "invalid_form", "file")


@pytest.mark.usefixtures("nothing_stored")
async def test_a_sender_who_goes_away_leaves_nothing(
    world: World, alice: httpx.AsyncClient, photo: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """httpx cannot hang up in the middle, so this speaks ASGI itself."""
    said: list[dict[str, Any]] = [
        {"type": "http.request", "body": photo, "more_body": True},
        {"type": "http.disconnect"},
    ]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return said.pop(0) if len(said) > 1 else said[0]

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope: dict[str, Any] = {
        "type": "http",
        "method": "POST",
        "path": PATH,
        "raw_path": PATH.encode(),
    }
    scope |= {"query_string": b"", "scheme": "http", "client": ("127.0.0.1", 1), "root_path": ""}
    scope |= {"headers": [(b"authorization", alice.headers["authorization"].encode())]}
    scope |= {"asgi": {"version": "3.0"}, "http_version": "1.1", "server": ("nereid.test", 80)}
    await world.app(scope, receive, send)  # type: ignore[arg-type]
    assert sent[0]["status"] == 400
    assert b"body_cut_short" in sent[1]["body"]
    assert not caplog.records, "a sender's fault is logged as ours"


async def test_a_sick_bucket_is_our_fault_and_not_the_photos(
    world: World, alice: httpx.AsyncClient, photo: bytes, assert_problem: AssertProblem
) -> None:
    world.objects.sick = True
    answer = await alice.post(PATH, content=photo)
    assert_problem(answer, 503, "s3_unavailable")
    assert not list(world.scratch.iterdir())
