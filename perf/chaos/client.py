"""A client as it should be: it comes back when told so, and asks again after a broken answer."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from chaos.ledger import Ledger

TIMEOUT_S = 20.0
PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
COME_BACK = {429, 503}
BODY_SHOWN = 300


class GivenUpError(Exception):
    """No good answer came before the deadline."""


@dataclass(frozen=True, slots=True)
class Answered:
    """A good answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass
class Api:
    """Both gateways as one client sees them; whoever got no answer from one asks the other."""

    gateways: Sequence[str]
    ledger: Ledger
    session: aiohttp.ClientSession
    deadline: float = float("inf")
    """When requests are given up (time.monotonic())."""
    refusals: Counter[str] = field(default_factory=Counter)
    _turn: int = 0

    async def ask(
        self,
        method: str,
        path: str,
        good: set[int],
        *,
        body: Callable[[], Any] | None = None,
        **request: Any,
    ) -> Answered:
        """Ask until an answer is `good`. Raises `GivenUpError`, late or for our own fault."""
        while time.monotonic() < self.deadline:
            answer = await self.once(method, path, body=body, **request)
            if answer is None:
                await asyncio.sleep(PAUSE_S)
                continue
            if answer.status in good:
                return answer
            await asyncio.sleep(self.pause_s(f"{method} {path}", answer))
            if 400 <= answer.status < 500 and answer.status not in COME_BACK:
                break  # it would be the same again
        raise GivenUpError(path)

    async def once(
        self, method: str, path: str, *, body: Callable[[], Any] | None = None, **request: Any
    ) -> Answered | None:
        """One request; None where it got no whole answer, and the next goes elsewhere."""
        self._turn += 1
        url = self.gateways[self._turn % len(self.gateways)]
        data = None if body is None else body()
        try:
            async with self.session.request(method, url + path, data=data, **request) as answer:
                return Answered(answer.status, answer.headers, await answer.read())
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self.refusals[type(error).__name__] += 1
            return None

    def pause_s(self, what: str, answer: Answered) -> float:
        """How long to wait after a refusal; an answer that is none is a violation."""
        told = answer.headers.get("Retry-After", "")
        if answer.status in COME_BACK and told.isdigit():
            self.refusals[str(answer.status)] += 1
            return min(float(told), LONGEST_PAUSE_S)
        text = answer.body[:BODY_SHOWN].decode(errors="replace")
        self.ledger.broken_answers.append(f"{what.partition('?')[0]}: {answer.status} {text}")
        return PAUSE_S


def session_of(key: str) -> aiohttp.ClientSession:
    """HTTP with the client's key."""
    return aiohttp.ClientSession(
        headers={"X-API-Key": key},
        timeout=aiohttp.ClientTimeout(total=TIMEOUT_S, connect=5.0),
        connector=aiohttp.TCPConnector(limit=0),
        trust_env=False,
    )
