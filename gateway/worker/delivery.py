"""One delivered message: its lease, its attempts, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import nats.errors
from nats.aio.msg import Msg

from functions._kit.errors import Unavailable
from functions._kit.messages import NO_JSON, new_id, now
from functions.tasks.contracts import Job, KeptJob, event_subject, read_event
from gateway.adapters.jetstream import JetStream
from gateway.tracing import TRACEPARENT

log = logging.getLogger(__name__)

SPENT = "Nereid-Spent"
"""Header of a job that was handed back: the attempts that it had spent by then."""
QUEUE = "jobs."
MOST_DIGITS = 6
RENEWALS = 3
"""A lease is renewed this many times within ack_wait."""


class Delivery:
    """A message in hand. Exactly one of done, retry, hand_back ends it."""

    def __init__(self, message: Msg) -> None:
        self.message = message
        self.subject = message.subject
        self.data = message.data
        metadata = message.metadata
        self.sequence = metadata.sequence.stream
        self.stored_at = metadata.timestamp
        self.headers: dict[str, str] = message.headers or {}
        self.attempt = _spent(self.headers.get(SPENT, "0")) + metadata.num_delivered
        self.span: Any = None
        """Of the work on it, where that is traced: see `Tracing.processing`."""

    @asynccontextmanager
    async def leased(self, ack_wait_s: float) -> AsyncIterator[None]:
        """Tell the server, while the block runs, that the work goes on."""
        renewing = asyncio.create_task(self._renew(ack_wait_s / RENEWALS))
        try:
            yield
        finally:
            renewing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await renewing

    async def done(self) -> None:
        """Remove the message: it has been dealt with."""
        await self._tell(self.message.ack)

    async def retry(self, delay_s: float) -> None:
        """Give the message back; it comes again after `delay_s`, one attempt poorer."""
        await self._tell(lambda: self.message.nak(delay=delay_s))

    async def hand_back(self, stream: JetStream) -> bool:
        """Give the message to another worker without spending an attempt; False if it was over.

        A copy that remembers the attempts goes to the queue, then the original is removed. A
        crash in between leaves two, and the task's final event decides between them. A fact of
        another stream stays where it is: a copy of it would be a second fact. A message that has
        been dealt with is left alone. Of a task's job it is told where the copy lies.
        """
        if self.message.is_acked:
            return False
        if not self.subject.startswith(QUEUE):
            await self.retry(0)
            return True
        headers = {SPENT: str(self.attempt - 1)}
        if TRACEPARENT in self.headers:
            headers[TRACEPARENT] = self.headers[TRACEPARENT]
        try:
            receipt = await stream.publish_bytes(
                self.subject,
                self.data,
                message_id=f"back:{self.sequence}:{self.attempt}",
                headers=headers,
            )
        except Unavailable:
            await self.retry(0)
        else:
            await self.done()
            if receipt.sequence:
                await self._tell_place(stream, receipt.sequence)
        return True

    async def _tell_place(self, stream: JetStream, sequence: int) -> None:
        """Else the job would be missed where it lay, and sent again."""
        try:
            task_id = _decode_job(self.data).task.task_id
        except NO_JSON:  # a message that belongs to no task
            return
        try:
            last = await stream.last(event_subject(task_id))
            event = None if last is None else read_event(last.data)
            if event is None or event.status.final:
                return
            moved = msgspec.structs.replace(
                event,
                event_id=new_id(),
                at=now(),
                waits_for=KeptJob(payload=msgspec.Raw(self.data), sequence=sequence),
            )
            await stream.publish(event_subject(task_id), moved, message_id=moved.event_id)
        except Unavailable as error:
            log.warning("task %s was handed back, which was not told: %s", task_id, error)

    async def _renew(self, every_s: float) -> None:
        while True:
            await asyncio.sleep(every_s)
            await self._tell(self.message.in_progress)

    async def _tell(self, tell: Callable[[], Awaitable[None]]) -> None:
        try:
            await tell()
        except nats.errors.Error as error:
            # the lease runs out and the message comes again, to a handler that may repeat itself
            log.warning("%s was not acknowledged: %r", self.subject, error)


_decode_job = msgspec.json.Decoder(Job).decode


def _spent(word: str) -> int:
    """The attempts in a header, which anybody may have written."""
    return int(word) if word.isascii() and word.isdigit() and len(word) < MOST_DIGITS else 0
