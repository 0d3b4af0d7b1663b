"""The port `KeyValue` over JetStream's key-value buckets, and the buckets that Nereid keeps."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from urllib.parse import unquote

import nats.js.errors
from nats.aio.client import Client
from nats.js.api import DiscardPolicy, StorageType, StreamConfig
from nats.js.kv import KeyValue as Bucket

from functions._kit.errors import Unavailable
from functions._kit.ports import Entry
from gateway.adapters.background import end
from gateway.adapters.bucketcopy import BucketCopy, watch
from gateway.adapters.jetstream import ensure_stream
from gateway.adapters.reaching import ASK_TIMEOUT_S, check_connected, translated

FIRST_COPY_S = 30.0
"""A bucket's leader may have to be elected first."""
MAX_KEY_BYTES = 1024
"""NATS reads a subject within a line of 4 KiB (its default max_control_line)."""
DUPLICATES_S = 120.0
"""JetStream's default memory of message ids; no bucket may have one longer than its values."""
DAY_S = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class BucketPlan:
    """How a bucket is kept. Values end by themselves after `lifetime_s`."""

    history: int = 1
    lifetime_s: float = math.inf


BUCKETS: Mapping[str, BucketPlan] = {
    "cameras": BucketPlan(),
    "capabilities": BucketPlan(history=5),
    "cooldowns": BucketPlan(lifetime_s=2 * DAY_S),
    "figures": BucketPlan(lifetime_s=30.0),
    "models": BucketPlan(),
    "quotas": BucketPlan(lifetime_s=2 * DAY_S),
    "rollouts": BucketPlan(lifetime_s=15 * DAY_S),
    "sickness": BucketPlan(lifetime_s=30.0),
}

_FOREIGN = re.compile(r"^\.|\.(?=\.|$)|[^-_/.a-zA-Z0-9]")
"""What a key of JetStream may not hold or, as `=`, what we write such letters with."""


async def ensure_buckets(client: Client, replicas: int) -> None:
    """Create the buckets, or bring them up to date; safe from several processes at once."""
    for name, plan in BUCKETS.items():
        forever = math.isinf(plan.lifetime_s)
        config = StreamConfig(  # as nats-py's create_key_value makes it
            name=f"KV_{name}",
            subjects=[f"$KV.{name}.>"],
            storage=StorageType.FILE,
            discard=DiscardPolicy.NEW,
            max_msgs_per_subject=plan.history,
            max_age=None if forever else plan.lifetime_s,
            duplicate_window=min(DUPLICATES_S, plan.lifetime_s),
            num_replicas=replicas,
            allow_rollup_hdrs=True,
            deny_delete=True,
            allow_direct=True,
        )
        await ensure_stream(client, config)


class JetStreamKeyValue:
    """Values by key, and a live copy of each bucket: see `open_key_values`."""

    def __init__(self, client: Client) -> None:
        self._client = client
        js = client.jetstream(timeout=ASK_TIMEOUT_S)
        # read from the leader: a copy that lags behind would fail every swap
        self._buckets = {
            name: Bucket(name, f"KV_{name}", f"$KV.{name}.", js, direct=False) for name in BUCKETS
        }
        self._copies = {name: BucketCopy(plan.lifetime_s) for name, plan in BUCKETS.items()}

    async def get(self, bucket: str, key: str) -> Entry | None:
        """See `KeyValue.get`."""
        check_connected(self._client)
        with translated():
            try:
                found = await self._buckets[bucket].get(encode_key(key))
            except nats.js.errors.KeyNotFoundError:
                return None
        return Entry(found.value or b"", found.revision or 0)

    async def put(self, bucket: str, key: str, value: bytes) -> int:
        """See `KeyValue.put`."""
        check_connected(self._client)
        with translated():
            return await self._buckets[bucket].put(encode_key(key), value)

    async def swap(self, bucket: str, key: str, value: bytes, *, revision: int) -> bool:
        """See `KeyValue.swap`."""
        check_connected(self._client)
        name = encode_key(key)
        with translated():
            while True:
                try:
                    if revision:
                        await self._buckets[bucket].update(name, value, last=revision)
                    else:
                        await self._buckets[bucket].create(name, value)
                except nats.js.errors.KeyWrongLastSequenceError:
                    return False
                except nats.js.errors.KeyNotFoundError:
                    continue  # its lifetime ended between create's two looks at it
                return True

    async def delete(self, bucket: str, key: str) -> None:
        """See `KeyValue.delete`."""
        check_connected(self._client)
        with translated():
            await self._buckets[bucket].delete(encode_key(key))

    def seen(self, bucket: str) -> Mapping[str, bytes]:
        """See `KeyValue.seen`."""
        return self._copies[bucket]

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Keep the copies alive; begins when each is there. Raises `Unavailable`."""
        async with AsyncExitStack() as stack:
            for name, copy in self._copies.items():
                watching = asyncio.create_task(watch(self._client, name, copy, decode_key))
                stack.push_async_callback(end, watching)
            try:
                async with asyncio.timeout(FIRST_COPY_S):
                    for copy in self._copies.values():
                        await copy.complete.wait()
            except TimeoutError as error:
                raise Unavailable("queue", "JetStream does not show its buckets") from error
            yield


@asynccontextmanager
async def open_key_values(client: Client) -> AsyncIterator[JetStreamKeyValue]:
    """Values whose buckets are all `seen` from the start. Raises `Unavailable`."""
    values = JetStreamKeyValue(client)
    async with values.watching():
        yield values


def encode_key(key: str) -> str:
    """`key` in the letters that JetStream allows: others as `=XX`, a byte of UTF-8 each.

    Raises ValueError for an empty key, and for one that is too long.
    """
    encoded = _FOREIGN.sub(_escape, key)
    if not 0 < len(encoded) <= MAX_KEY_BYTES:
        raise ValueError(f"a key must have 1 to {MAX_KEY_BYTES} bytes, not {len(encoded)}")
    return encoded


def decode_key(encoded: str) -> str:
    """The key that `encode_key` has written."""
    return unquote(encoded.replace("=", "%"))


def _escape(found: re.Match[str]) -> str:
    return "".join(f"={byte:02X}" for byte in found[0].encode())
