"""A live copy of a key-value bucket, made anew whenever a message might have been missed."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.kv import KV_DEL, KV_MARKER_REASON, KV_OP, KV_PURGE

from functions._kit.errors import Unavailable
from functions._kit.messages import now
from gateway.adapters.reaching import ASK_TIMEOUT_S, UNREACHABLE, check_connected

log = logging.getLogger(__name__)

HEARTBEAT_S = 1.0
"""JetStream speaks at least so often, whether there is news or not."""
SILENCE_S = 2.5 * HEARTBEAT_S
"""After so long without a word, the watch is begun again."""
PAUSE_S = 0.25


class BucketCopy(Mapping[str, bytes]):
    """The values of a bucket by key; those older than `lifetime_s` are gone.

    JetStream tells nobody when a value ends by age, so each has its end noted.
    """

    def __init__(self, lifetime_s: float) -> None:
        self.lifetime_s = lifetime_s
        self.swept_at = time.monotonic()
        self.complete = asyncio.Event()
        self.entries: dict[str, tuple[bytes, float]] = {}
        """Value and end, the latter by the clock `time.monotonic`."""

    def __getitem__(self, key: str) -> bytes:
        value, end = self.entries[key]
        if end <= time.monotonic():
            raise KeyError(key)
        return value

    def __iter__(self) -> Iterator[str]:
        moment = time.monotonic()
        return iter([key for key, (_, end) in self.entries.items() if end > moment])

    def __len__(self) -> int:
        return len(list(iter(self)))

    def replace(self, entries: dict[str, tuple[bytes, float]]) -> None:
        """Take over what a new watch has found."""
        self.entries = entries
        self.complete.set()

    def sweep(self) -> None:
        """Free the memory of what has ended, once in a lifetime."""
        moment = time.monotonic()
        if moment - self.swept_at > self.lifetime_s:
            self.swept_at = moment
            for key in [key for key, (_, end) in self.entries.items() if end <= moment]:
                del self.entries[key]

    def end_of(self, message: Msg, *, new: bool) -> float:
        """When the value of `message` ends. `new`: it was stored just now.

        The age of others is by the server's clock and ours; a new one needs neither.
        """
        age_s = 0.0 if new else (now() - message.metadata.timestamp).total_seconds()
        return time.monotonic() + self.lifetime_s - min(max(age_s, 0.0), self.lifetime_s)


async def watch(
    client: Client, bucket: str, copy: BucketCopy, decode_key: Callable[[str], str]
) -> None:
    """Keep `copy` as the bucket is, for ever.

    After a silence or a gap the whole bucket is read again, while `copy` stays as it was: so a
    restart of NATS loses no change, not even that the bucket was emptied meanwhile.
    """
    while True:
        try:
            check_connected(client)
            await _Watch(copy, decode_key).run(client, bucket)
        except (*UNREACHABLE, Unavailable) as error:
            log.info("the bucket %s is watched again: %r", bucket, error)
        await asyncio.sleep(PAUSE_S)


class _Watch:
    """One reading of a bucket: the values that are there, then each change."""

    def __init__(self, copy: BucketCopy, decode_key: Callable[[str], str]) -> None:
        self._copy = copy
        self._decode_key = decode_key
        self._entries: dict[str, tuple[bytes, float]] = {}
        self._taken = 0
        self._complete = False
        self._lost = False
        self._heard = asyncio.Event()

    async def run(self, client: Client, bucket: str) -> None:
        """Returns when a message is missing; raises as nats-py does when nothing comes any more.

        Messages come by callback: waiting for each in turn, nats-py swallows cancellations.
        """
        inbox = await client.subscribe(client.new_inbox(), cb=self._hear)
        try:
            config = ConsumerConfig(
                deliver_subject=inbox.subject,
                filter_subject=f"$KV.{bucket}.>",
                deliver_policy=DeliverPolicy.LAST_PER_SUBJECT,
                ack_policy=AckPolicy.NONE,
                idle_heartbeat=HEARTBEAT_S,
                mem_storage=True,
                num_replicas=1,
            )
            js = client.jetstream(timeout=ASK_TIMEOUT_S)
            consumer = await js.add_consumer(f"KV_{bucket}", config)
            if consumer.num_pending == 0:
                self._note_complete()
            while not self._lost:
                self._heard.clear()
                async with asyncio.timeout(SILENCE_S):
                    await self._heard.wait()
        finally:
            self._lost = True
            if not client.is_closed:
                await inbox.unsubscribe()

    async def _hear(self, message: Msg) -> None:
        self._heard.set()
        headers = message.headers or {}
        if self._lost:
            return
        if "Status" in headers:  # a heartbeat, sent while nothing waits
            if int(headers.get("Nats-Last-Consumer", "-1")) != self._taken:
                self._lost = True
                return
            self._note_complete()
            self._copy.sweep()
            return
        if message.metadata.sequence.consumer != self._taken + 1:
            self._lost = True
            return
        self._taken += 1
        self._apply(message, headers)
        if message.metadata.num_pending == 0:
            self._note_complete()

    def _apply(self, message: Msg, headers: Mapping[str, str]) -> None:
        key = self._decode_key(message.subject.split(".", 2)[2])
        if headers.get(KV_OP) in {KV_DEL, KV_PURGE} or KV_MARKER_REASON in headers:
            self._entries.pop(key, None)
        else:
            end = self._copy.end_of(message, new=self._complete)
            self._entries[key] = (message.data, end)

    def _note_complete(self) -> None:
        if not self._complete:
            self._complete = True
            self._copy.replace(self._entries)
