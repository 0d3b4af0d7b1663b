"""jobs.tasks.webhook: tell a task's final state to its callback_url, signed, until it is heard."""

from __future__ import annotations

import base64
import hashlib
import hmac
import socket
import time
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec
from aiohttp.abc import AbstractResolver, ResolveResult

from functions._kit.addresses import is_public
from functions._kit.consume import consume
from functions._kit.errors import JobFailed, RetryJob
from functions._kit.policy import Policy
from functions._kit.ports import Limits
from functions.tasks.contracts import WebhookJob

TIMEOUT_S = 10.0


@consume(
    "jobs.tasks.webhook",
    policy=Policy(
        concurrency=16,
        timeout_s=30.0,
        attempts=12,
        backoff_s=(1, 5, 30, 120, 600, 1800, 3600),
    ),
)
async def webhook(job: WebhookJob, limits: Limits) -> None:
    """POST the final state; anything but a 2xx answer is tried again.

    Headers and signature are those of the Standard Webhooks specification: `webhook-id`,
    `webhook-timestamp`, and `webhook-signature` = "v1," + base64(HMAC-SHA256(secret,
    "id.timestamp.body")). Redirects are not followed.
    """
    row = job.row
    body = msgspec.json.encode(
        {
            "type": f"task.{row.status.value}",
            "timestamp": row.finished_at,
            "data": {
                "task_id": row.task.task_id,
                "status": row.status,
                "workflow": row.task.workflow,
                "result": row.result,
                "error": row.error,
            },
        }
    )
    url = row.task.callback_url or ""
    where = _origin(url)
    headers = signed(limits.webhook_secret, f"{row.task.task_id}:{row.status.value}", body)
    try:
        async with (
            _session(allow_private=limits.allow_private_callbacks) as session,
            session.post(url, data=body, headers=headers, allow_redirects=False) as answer,
        ):
            if not 200 <= answer.status < 300:
                raise RetryJob("webhook_refused", f"{where} answered {answer.status}")
    except PrivateAddressError as error:
        raise JobFailed("private_callback_url", str(error)) from error
    except aiohttp.InvalidURL as error:
        raise JobFailed("invalid_callback_url", f"{where} cannot be called") from error
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise RetryJob("webhook_unreachable", f"{where}: {type(error).__name__}") from error


def signed(secret: bytes, message_id: str, body: bytes) -> dict[str, str]:
    """The headers of a webhook, as standardwebhooks.com lays down."""
    stamp = str(int(time.time()))
    content = f"{message_id}.{stamp}.".encode() + body
    digest = base64.b64encode(hmac.new(secret, content, hashlib.sha256).digest()).decode()
    return {
        "content-type": "application/json",
        "user-agent": "nereid",
        "webhook-id": message_id,
        "webhook-timestamp": stamp,
        "webhook-signature": f"v1,{digest}",
    }


def _origin(url: str) -> str:
    """What of a callback_url may be told: path and query often hold a secret of the receiver."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "callback_url"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


class PrivateAddressError(Exception):
    """A callback_url leads to an address of this network."""


class _PublicResolver(AbstractResolver):
    """Resolves names and refuses private addresses; the connection goes to what was checked."""

    def __init__(self) -> None:
        self._inner = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        results = await self._inner.resolve(host, port, family)
        for result in results:
            if not is_public(result["host"]):
                raise PrivateAddressError(f"{host} resolves to the private {result['host']}")
        return results

    async def close(self) -> None:
        await self._inner.close()


class _PublicConnector(aiohttp.TCPConnector):
    """A connector that also checks addresses written as numbers, which skip the resolver."""

    async def _resolve_host(self, host: str, port: int, traces: Any = None) -> list[ResolveResult]:
        try:
            public = is_public(host)
        except ValueError:
            public = True
        if not public:
            raise PrivateAddressError(f"{host} is a private address")
        return await super()._resolve_host(host, port, traces)


def _session(*, allow_private: bool) -> aiohttp.ClientSession:
    connector = (
        aiohttp.TCPConnector(resolver=aiohttp.ThreadedResolver())
        if allow_private
        else _PublicConnector(resolver=_PublicResolver())
    )
    return aiohttp.ClientSession(
        connector=connector, timeout=aiohttp.ClientTimeout(total=TIMEOUT_S), trust_env=False
    )
