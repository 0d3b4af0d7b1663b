"""Where webhooks go: a server that can refuse them, or be away, and remembers what it took."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web
from chaos.ledger import Ledger


class Receiver:
    """Takes webhooks into the ledger; `mood` is "receiver refuses", "receiver away", or ""."""

    def __init__(self, ledger: Ledger, secret: bytes) -> None:
        self.url = ""
        self.mood = ""
        self._ledger = ledger
        self._secret = secret

    async def take(self, request: web.Request) -> web.Response:
        """One webhook."""
        body = await request.read()
        if self.mood == "receiver away":
            if request.transport is not None:
                request.transport.abort()
            return web.Response()
        if self.mood == "receiver refuses":
            return web.Response(status=500)
        if not self._signed(request, body):
            self._ledger.forged += 1
            return web.Response(status=401)
        task_id = json.loads(body)["data"]["task_id"]
        self._ledger.heard[task_id] = self._ledger.heard.get(task_id, 0) + 1
        return web.Response(status=204)

    def _signed(self, request: web.Request, body: bytes) -> bool:
        """As standardwebhooks.com lays down."""
        named = (request.headers.get(f"webhook-{name}", "") for name in ("id", "timestamp"))
        content = ".".join(named).encode() + b"." + body
        digest = base64.b64encode(hmac.new(self._secret, content, hashlib.sha256).digest())
        return request.headers.get("webhook-signature") == f"v1,{digest.decode()}"


@asynccontextmanager
async def receiver_of(ledger: Ledger, secret: bytes) -> AsyncIterator[Receiver]:
    """A receiver at a free port of its own."""
    receiver = Receiver(ledger, secret)
    app = web.Application()
    app.router.add_post("/hook", receiver.take)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    receiver.url = f"http://127.0.0.1:{port}/hook"
    try:
        yield receiver
    finally:
        await runner.cleanup()
