"""Publishing that outlives a leader: repeated under one message id, spared where nobody leads."""

from __future__ import annotations

import asyncio
import logging
import re
from dataclasses import dataclass

import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.js.api import PubAck

from functions._kit.errors import QueueFull, TooLarge, Unavailable
from functions._kit.messages import new_id
from functions._kit.ports import Receipt
from gateway.adapters.reaching import ASK_TIMEOUT_S, UNREACHABLE, check_connected, unanswered

log = logging.getLogger(__name__)

MESSAGE_ID = "Nats-Msg-Id"
SPARE = "spare."
"""Before a subject: where its message lies while nobody leads its stream."""
SPARED = ("jobs.", "frames.")
TRY_S = 1.0
"""An answer that takes longer is not waited for: it may have been lost with a leader."""
SPARE_AFTER_S = 1.0
"""How long a stream is waited for that has taken nothing since; then SPARE is asked."""
PAUSE_S = 0.1
FULL = {10077, 10047}
"""JetStream's error codes for a stream, or its store, at the limit."""
TOO_LARGE = 10054
"""JetStream's for a message that its stream takes at no time."""
SUBJECT = re.compile(r"[^\s\x00-\x1f\x7f]+")
LOST = (nats.errors.TimeoutError, asyncio.TimeoutError, nats.errors.ConnectionClosedError, OSError)
"""Whoever meets these does not know whether the message was stored."""


@dataclass(slots=True)
class _Message:
    subject: str
    data: bytes
    headers: dict[str, str]
    lost: bool = False
    """An answer to it was lost, so that it may be there."""


class Publisher:
    """Stores messages durably in JetStream. `clustered`: a stream SPARE stands by."""

    def __init__(self, client: Client, *, clustered: bool) -> None:
        self._client = client
        self._clustered = clustered
        self._js = client.jetstream(timeout=ASK_TIMEOUT_S)
        self._failing: dict[str, float] = {}
        """Since when a stream has taken nothing, by its name."""

    async def publish(self, subject: str, data: bytes, headers: dict[str, str]) -> Receipt:
        """Store the message; a receipt without a sequence tells that SPARE has it.

        Raises `QueueFull` where nothing is stored, `TooLarge` where it never will be, and
        `Unavailable` where it is not known to be stored after some seconds. A message without an
        id is sent once, where its answer may have been lost.
        """
        spared = self._clustered and subject.startswith(SPARED)
        if spared:
            headers = {MESSAGE_ID: new_id()} | headers
        message = _Message(subject, data, headers)
        spare = _Message(SPARE + subject, data, headers)
        stream = stream_of(subject)
        loop = asyncio.get_running_loop()
        began = loop.time()
        told = False
        while True:
            try:
                receipt = await self._try(message)
            except QueueFull as error:
                if message.lost or spare.lost:  # a full stream refuses what it has, too
                    raise Unavailable(
                        "queue", "whether the message is stored is not known"
                    ) from error
                raise
            except Unavailable:
                failing_since = self._failing.setdefault(stream, began)
                repeatable = MESSAGE_ID in headers or not message.lost
                is_late = loop.time() >= began + ASK_TIMEOUT_S
                if is_late or not repeatable or not self._may_wait():
                    raise
            else:
                self._failing.pop(stream, None)
                return receipt
            if spared and loop.time() >= failing_since + SPARE_AFTER_S:
                try:
                    return await self._try(spare)
                except Unavailable as error:
                    level, told = logging.DEBUG if told else logging.WARNING, True
                    log.log(level, "%s could not be spared: %s", subject, error)
            await asyncio.sleep(PAUSE_S)

    async def move(self, subject: str, data: bytes, headers: dict[str, str]) -> None:
        """Store what SPARE held where it belongs. Raises as `publish` does, after one try."""
        await self._try(_Message(subject, data, headers))

    def _may_wait(self) -> bool:
        """One of several servers is soon another; a single one is called again for longer."""
        return self._clustered or self._client.is_connected

    async def _try(self, message: _Message) -> Receipt:
        check_connected(self._client)
        timeout_s = TRY_S if MESSAGE_ID in message.headers else ASK_TIMEOUT_S
        try:
            ack = await self._js.publish(
                message.subject, message.data, timeout=timeout_s, headers=message.headers or None
            )
        except nats.js.errors.APIError as error:
            if error.err_code == TOO_LARGE:
                why = f"a message on {message.subject} is larger than its stream takes"
                raise TooLarge("message_too_large", why) from error
            if error.err_code in FULL or "maximum" in (error.description or ""):
                raise QueueFull("the queue is full; try again later") from error
            raise Unavailable("queue", f"JetStream refused the message: {error}") from error
        except LOST as error:
            message.lost = True
            raise unanswered(error) from error
        except UNREACHABLE as error:
            raise unanswered(error) from error
        if message.subject.startswith(SPARE):
            return Receipt(sequence=0, duplicate=False)
        return Receipt(
            ack.seq, duplicate=bool(ack.duplicate) and not await self._is_ours(message, ack)
        )

    async def _is_ours(self, message: _Message, ack: PubAck) -> bool:
        """Whether a message that is known already is this one, whose answer was lost before.

        One that is gone has been taken from its queue meanwhile, which leaves no doubt to act on.
        """
        if not message.lost:
            return False
        try:
            kept = await self._js.get_msg(stream_of(message.subject), ack.seq)
        except nats.js.errors.NotFoundError:
            return True
        except UNREACHABLE:
            return False
        return kept.data == message.data


def check_subject(subject: str) -> None:
    """Raise ValueError for a subject that would break the protocol's line."""
    if not SUBJECT.fullmatch(subject):
        raise ValueError(f"{subject[:100]!r} is no subject: it holds spaces or control characters")


def stream_of(subject: str) -> str:
    """The stream that keeps the messages of `subject`. Raises ValueError as `check_subject`."""
    check_subject(subject)
    return subject.partition(".")[0].upper()
