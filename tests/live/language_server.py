"""A real HTTP server that speaks OpenAI's chat completions, and misbehaves as it is told."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

Behaviour = Callable[[web.Request], Awaitable[web.StreamResponse]]
Reply = Callable[[str, str], str]
"""Makes the answer of the instructions and the text."""


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One request as it came, of whatever fate."""

    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]

    @property
    def instructions(self) -> str:
        return str(self.body["messages"][0]["content"])

    @property
    def text(self) -> str:
        return str(self.body["messages"][-1]["content"])


@dataclass(slots=True)
class LanguageServer:
    """Answers every text in capitals, after what `next` holds; while `open` is cleared, none."""

    url: str = ""
    requests: list[ChatRequest] = field(default_factory=list)
    reply: Reply = lambda _, text: text.upper()
    next: deque[Behaviour] = field(default_factory=deque)
    """How the next requests fare, one each."""
    open: asyncio.Event = field(default_factory=asyncio.Event)
    in_hand: int = 0
    most_in_hand: int = 0
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    def refuse(
        self, status: int, message: str = "no", *, times: int = 1, **facts: str | None
    ) -> None:
        """Answer so `times` times, in OpenAI's form; `facts` are members of its error.

        A header is given as `Retry_After="3"`.
        """
        headers = {name.replace("_", "-"): v for name, v in facts.items() if name[0].isupper()}
        error = {"message": message, "type": "error", "param": None, "code": None}
        error |= {name: v for name, v in facts.items() if not name[0].isupper()}
        body = json.dumps({"error": error}).encode()
        for _ in range(times):
            self.say(body, status=status, headers=headers)

    def say(
        self, body: bytes, *, status: int = 200, headers: Mapping[str, str | None] | None = None
    ) -> None:
        """Answer the next request with these bytes."""

        async def saying(_: web.Request) -> web.StreamResponse:
            given = {name: v for name, v in (headers or {}).items() if v is not None}
            return web.Response(
                body=body, status=status, headers={"Content-Type": "application/json"} | given
            )

        self.next.append(saying)

    def cut_off(self, *, times: int = 1) -> None:
        """Close the connection in the middle of the answer."""

        async def cutting(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse(headers={"Content-Length": "1000"})
            await response.prepare(request)
            await response.write(b'{"choices": [{"message"')
            assert request.transport is not None
            request.transport.close()
            return response

        self.next.extend([cutting] * times)

    async def until_in_hand(self, count: int) -> None:
        """Return when `count` requests are being answered, or held up."""
        async with self.changed:
            await self.changed.wait_for(lambda: self.in_hand == count)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Handle POST /v1/chat/completions."""
        asked = ChatRequest(request.path, request.headers, await request.json())
        self.requests.append(asked)
        await self._count(1)
        try:
            await self.open.wait()
            if self.next:
                return await self.next.popleft()(request)
            return web.json_response(completion(self.reply(asked.instructions, asked.text)))
        finally:
            await asyncio.shield(self._count(-1))

    async def _count(self, step: int) -> None:
        async with self.changed:
            self.in_hand += step
            self.most_in_hand = max(self.most_in_hand, self.in_hand)
            self.changed.notify_all()


def completion(content: str | None, **facts: Any) -> dict[str, Any]:
    """An answer as OpenAI's API reference shows it; `facts` go to its choice."""
    message = {"role": "assistant", "content": content}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_777_777_777,
        "model": "test-model",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"} | facts],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }


@asynccontextmanager
async def language_server() -> AsyncIterator[LanguageServer]:
    """A server at a free port; `url` is its base, with /v1."""
    server = LanguageServer()
    server.open.set()
    app = web.Application(client_max_size=16 << 20)
    app.router.add_post("/v1/chat/completions", server.answer)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1.0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    server.url = f"http://{host}:{port}/v1"
    try:
        yield server
    finally:
        server.open.set()
        await runner.cleanup()
