"""Handlers that run by the clock: their ticks are messages, so one worker of all takes each."""

from __future__ import annotations

import asyncio
import logging
import time

from functions._kit.consume import Consumer, Tick
from functions._kit.errors import Unavailable
from functions._kit.messages import now
from gateway.adapters.jetstream import JetStream

log = logging.getLogger(__name__)


async def tick(consumer: Consumer, stream: JetStream) -> None:
    """Publish a tick at every whole multiple of the policy's `every_s`, without end.

    Every worker does, under the same message id, and the stream keeps the first: no leader is
    needed. While an earlier tick waits or is in hand there is no other, so that what a sick
    backend has held up is done once.
    """
    every_s = consumer.policy.every_s
    assert every_s is not None
    while True:
        slot = time.time() // every_s
        try:
            if not await stream.count(consumer.subject):
                message_id = f"{consumer.subject}:{slot:.0f}"
                await stream.publish(consumer.subject, Tick(at=now()), message_id=message_id)
        except Unavailable as error:
            log.debug("no tick on %s: %s", consumer.subject, error)
        await asyncio.sleep((slot + 1) * every_s - time.time())
