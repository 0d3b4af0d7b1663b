"""GET /health/live and /health/ready: is this process alive, can it work."""

from __future__ import annotations

import asyncio
import re
from typing import Literal

from litestar import Response, get

from functions._kit.http import Port
from functions._kit.messages import Answer
from functions._kit.policy import HttpPolicy
from functions._kit.ports import Probes

PROBE_TIMEOUT_S = 2.0
Part = Literal["ok", "failing", "unreachable", "loading"]
LONGEST_REASON = 200
PLACES = re.compile(
    r"\b[a-z][a-z0-9+.-]*://\S+|\b(?:\d{1,3}\.){3}\d{1,3}(?::\d+)?|\[?[0-9a-f]*::[0-9a-f:]+\]?(?::\d+)?"
    r"|\bhost[ =]\S+|\bserver at \S+|\bport[ =]\d+|\buser \S+"
)
"""Where our servers are, and as whom we come: not for everybody who asks how we are."""


class Alive(Answer, frozen=True, kw_only=True):
    """This process answers."""

    status: Literal["alive"] = "alive"


class Readiness(Answer, frozen=True, kw_only=True):
    """Whether all is well, and each part's state."""

    status: Literal["ready", "not ready"]
    parts: dict[str, Part]
    """Each server, and `models` while `nereid up` has some to load."""
    reasons: dict[str, str]
    """What workers say of a part that answers and fails what they ask of it; what is loading."""


@get("/health/live", summary="Is the process alive", opt={"policy": HttpPolicy(scope=None)})
async def live() -> Alive:
    """Always 200 while the event loop turns."""
    return Alive()


@get("/health/ready", summary="Can it work", opt={"policy": HttpPolicy(scope=None)})
async def ready(probes: Port[Probes]) -> Response[Readiness]:
    """200, or 503 with the part that is not reachable, or fails whatever it is asked for.

    Models that are still being loaded keep nobody away: work is taken, and waits for them.
    """
    names = list(probes.checks)
    states = await asyncio.gather(*(_probe(probes, name) for name in names))
    loading = dict(probes.loading())
    sick = {name: _told(reason) for name, reason in probes.sickness().items()}
    well = all(states) and not sick
    parts: dict[str, Part] = {
        name: "unreachable" if not state else "failing" if name in sick else "ok"
        for name, state in zip(names, states, strict=True)
    }
    body = Readiness(
        status="ready" if well else "not ready",
        parts=parts | dict.fromkeys(loading, "loading"),
        reasons=sick | loading,
    )
    return Response(body, status_code=200 if well else 503)


def _told(reason: str) -> str:
    """The first line of what a worker says, without addresses: nobody has to sign in for this."""
    return PLACES.sub("...", reason.partition("\n")[0])[:LONGEST_REASON]


async def _probe(probes: Probes, name: str) -> bool:
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            return await probes.checks[name]()
    except TimeoutError:
        return False
