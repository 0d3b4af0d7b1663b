"""What two servers in a row could read in two ways, what is too large, and who is too slow."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
import pytest_asyncio
import uvicorn

from gateway.edge import protocol
from gateway.edge.protocol import MAX_HEAD_BYTES, MAX_HEADERS, MAX_URL_BYTES, BoundedProtocol
from gateway.serving import Server

EVIL = b"GET /evil HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /a HTTP/1.1\r\nHost: x\r\n"
GET = b"GET /a HTTP/1.1\r\nHost: x\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
LIMIT_S = 60.0
pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass(slots=True)
class Answering:
    """A server of an app that reads bodies whole; `held` keeps it from answering."""

    port: int = 0
    whole: list[tuple[str, bytes]] = field(default_factory=list)
    """Paths and bodies of requests that came to their end."""
    cut: list[str] = field(default_factory=list)
    """Paths of those that did not."""

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.cut.append(scope["path"])
                return
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        self.whole.append((scope["path"], body))
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    async def ask(self, data: bytes) -> list[int]:
        """Send bytes as they are; the statuses of all answers until the connection is closed."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        answer = b""
        with suppress(ConnectionError):  # it may be closed while we still send
            writer.write(data)
            writer.write_eof()
            async with asyncio.timeout(LIMIT_S):
                while chunk := await reader.read(65536):
                    answer += chunk
                    if b" 204 " in answer and b"connection: close" not in data.lower():
                        break
        writer.close()
        return [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:]]


@asynccontextmanager
async def serving(limit_concurrency: int | None = None) -> AsyncIterator[Answering]:
    """A real server, within the block."""
    found = Answering()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        found.port = listener.getsockname()[1]
        config = uvicorn.Config(
            found.app,
            interface="asgi3",
            http=BoundedProtocol,
            ws="none",
            log_config=None,
            lifespan="off",
            proxy_headers=False,
            limit_concurrency=limit_concurrency,
        )
        server = Server(config)
        task = asyncio.create_task(server.serve(sockets=[listener]))
        yield found
        server.should_exit = True
        await task


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def one_server() -> AsyncIterator[Answering]:
    async with serving() as found:
        yield found


@pytest.fixture
def answering(one_server: Answering) -> Answering:
    """The module's server, which remembers nothing of other tests."""
    one_server.whole.clear()
    one_server.cut.clear()
    return one_server


@pytest.mark.parametrize(
    "data",
    {
        "length and chunks": POST + b"Content-Length: 5\r\n" + CHUNKED + b"\r\n0\r\n\r\n" + EVIL,
        "chunks and length": POST + CHUNKED + b"Content-Length: 5\r\n\r\n0\r\n\r\n" + EVIL,
        "two lengths": POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!" + EVIL,
        "one length twice": POST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
        "a list of lengths": POST + b"Content-Length: 5, 5\r\n\r\nhello",
        "a length with plus": POST + b"Content-Length: +5\r\n\r\nhello",
        "a length below 0": POST + b"Content-Length: -5\r\n\r\nhello",
        "a hexadecimal length": POST + b"Content-Length: 0x5\r\n\r\nhello",
        "a length beyond 64 bits": POST + b"Content-Length: 99999999999999999999999\r\n\r\nhello",
        "a folded header": GET + b"X-A: b\r\n c\r\n\r\n",
        "a space before the colon": POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        "chunks that are not last": POST + b"Transfer-Encoding: chunked, x\r\n\r\n0\r\n\r\n" + EVIL,
        "two encodings": POST + CHUNKED + b"Transfer-Encoding: identity\r\n\r\n0\r\n\r\n" + EVIL,
        "an encoding with a tab": POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
        "an unknown encoding": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + EVIL,
        "chunks in HTTP/1.0": POST.replace(b"1.1", b"1.0") + CHUNKED + b"\r\n0\r\n\r\n" + EVIL,
        "lines that end in LF": b"GET /a HTTP/1.1\nHost: x\n\n",
        "CR in a header": GET + b"X: a\rb\r\n\r\n",
        "NUL in a header": GET + b"X: a\0b\r\n\r\n",
        "two hosts": GET + b"Host: y\r\n\r\n",
        "no host": b"GET /a HTTP/1.1\r\n\r\n",
        "a tunnel": b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n",
    }.items(),
    ids=lambda pair: pair[0],
)
async def test_a_request_that_could_be_read_in_two_ways_is_refused(
    answering: Answering, data: tuple[str, bytes]
) -> None:
    assert await answering.ask(data[1]) == [400]
    assert answering.whole == []


@pytest.mark.parametrize("chunk", ["xyz", "0x5", "-5", "+5", "fffffffffffffffff", "5\nhello", " 5"])
async def test_a_chunk_of_no_true_size_ends_the_request(answering: Answering, chunk: str) -> None:
    data = POST + CHUNKED + f"\r\n{chunk}\r\nhello\r\n0\r\n\r\n".encode()
    assert await answering.ask(data) == [400]
    assert answering.whole == []


@pytest.mark.parametrize("version", [b"", b" HTTP/0.9", b" HTTP/2.0", b" HTTP/1.9"])
async def test_a_version_that_nobody_speaks_is_refused(
    answering: Answering, version: bytes
) -> None:
    (status,) = await answering.ask(b"GET /a" + version + b"\r\nHost: x\r\n\r\n")
    assert status in {400, 505}
    assert answering.whole == []


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (GET + b"X: " + b"a" * MAX_HEAD_BYTES + b"\r\n\r\n", 431),
        (GET + b"X: " + b"a" * 20 * MAX_HEAD_BYTES, 431),
        (GET + b"a" * 20 * MAX_HEAD_BYTES, 431),
        (GET + b"X: a\r\n" * MAX_HEADERS + b"\r\n", 431),
        (b"GET /" + b"a" * MAX_URL_BYTES + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
    ],
    ids=["header", "endless header", "endless name", "headers", "url"],
)
async def test_a_head_has_bounds(answering: Answering, data: bytes, status: int) -> None:
    assert await answering.ask(data) in ([status], [])  # reset while it was still being sent
    assert answering.whole == []


async def test_trailers_count_as_head(answering: Answering) -> None:
    data = POST + CHUNKED + b"\r\n0\r\nX: " + b"a" * MAX_HEAD_BYTES + b"\r\n\r\n"
    assert await answering.ask(data) in ([431], [])
    assert answering.whole == []


async def test_what_is_within_bounds_is_answered(answering: Answering) -> None:
    head = b"GET /" + b"a" * (MAX_URL_BYTES - 10) + b" HTTP/1.1\r\nHost: x\r\nX: "
    assert await answering.ask(head + b"a" * 20_000 + b"\r\n\r\n") == [204]
    body = b"b" * 1_000_000
    assert await answering.ask(POST + b"Content-Length: 1000000\r\n\r\n" + body) == [204]
    assert answering.whole[1] == ("/a", body)


async def test_a_refusal_is_a_problem_document(answering: Answering) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", answering.port)
    writer.write(b"nonsense\r\n\r\n")
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    assert b"content-type: application/problem+json" in head
    assert b"x-content-type-options: nosniff" in head
    assert b"server:" not in head
    assert json.loads(body)["code"] == "invalid_http"


@pytest.mark.parametrize(
    "begun", [b"", b"GET /a HT", GET + b"X: a", POST + b"Content-Length: 9\r\n\r\nhello"]
)
async def test_who_is_too_slow_is_cut_off(
    answering: Answering, monkeypatch: pytest.MonkeyPatch, begun: bytes
) -> None:
    for name in ("HEAD_TIMEOUT_S", "BODY_SILENCE_S", "CHECK_S"):
        monkeypatch.setattr(protocol, name, 0.05)
    reader, writer = await asyncio.open_connection("127.0.0.1", answering.port)
    writer.write(begun)
    async with asyncio.timeout(LIMIT_S):
        assert await reader.read() == b""
    writer.close()
    assert answering.whole == []


async def connection(
    answering: Answering, number: int
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """One from an address of its own, 127.0.0.NUMBER."""
    here = (f"127.0.0.{number}", 0)
    return await asyncio.open_connection("127.0.0.1", answering.port, local_addr=here)


async def test_more_connections_than_allowed_are_told_to_come_back() -> None:
    async with serving(limit_concurrency=5) as answering:
        opened = [await connection(answering, number) for number in range(2, 7)]
        for _, writer in opened:
            writer.write(GET + b"\r\n")
        for reader, _ in opened:
            assert b" 204 " in await reader.readline()
        reader, late = await connection(answering, 7)
        late.write(GET + b"\r\n")
        answer = await reader.read()
        assert b" 503 " in answer
        assert b"retry-after: 1" in answer
        for writer in (late, *(writer for _, writer in opened)):
            writer.close()


async def test_one_address_cannot_hold_all_connections() -> None:
    async with serving(limit_concurrency=8) as answering:
        held = [await connection(answering, 2) for _ in range(2)]
        for _, writer in held:
            writer.write(GET + b"\r\n")
        for reader, _ in held:
            assert b" 204 " in await reader.readline()
        reader, further = await connection(answering, 2)
        assert b" 503 " in await reader.read()
        other, writer = await connection(answering, 3)
        writer.write(GET + b"\r\n")
        assert b" 204 " in await other.readline()
        for _, one in held:
            one.close()
        async with asyncio.timeout(LIMIT_S):
            answer = b""
            while b" 204 " not in answer:  # until the server has seen that they are closed
                again, one = await connection(answering, 2)
                one.write(GET + b"\r\n")
                with suppress(ConnectionError):
                    answer = await again.readline()
                one.close()
        for one in (further, writer):
            one.close()
