"""Key-value buckets in memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

import msgspec

from functions._kit.errors import Unavailable
from functions._kit.ports import Entry
from functions._kit.rollout.state import CAPABILITIES, Serving, Target

BUCKETS = (
    "cameras", "capabilities", "cooldowns", "figures", "models", "quotas", "rollouts", "sickness",
)  # fmt: skip
MAX_KEY_BYTES = 1024


class FakeKeyValue:
    """Answers as `JetStreamKeyValue` does; `expire` ends a value as age does."""

    def __init__(self) -> None:
        self.sick = False
        self.buckets: dict[str, dict[str, Entry]] = {name: {} for name in BUCKETS}
        """Every value by bucket and key."""
        self._revisions: defaultdict[str, int] = defaultdict(int)

    async def get(self, bucket: str, key: str) -> Entry | None:
        """See `KeyValue.get`."""
        return self._bucket(bucket, key).get(key)

    async def put(self, bucket: str, key: str, value: bytes) -> int:
        """See `KeyValue.put`."""
        entries = self._bucket(bucket, key)
        self._revisions[bucket] += 1
        entries[key] = Entry(value, self._revisions[bucket])
        return self._revisions[bucket]

    async def swap(self, bucket: str, key: str, value: bytes, *, revision: int) -> bool:
        """See `KeyValue.swap`."""
        held = self._bucket(bucket, key).get(key)
        if revision != (held.revision if held is not None else 0):
            return False
        await self.put(bucket, key, value)
        return True

    async def delete(self, bucket: str, key: str) -> None:
        """See `KeyValue.delete`."""
        self._bucket(bucket, key).pop(key, None)
        self._revisions[bucket] += 1

    def seen(self, bucket: str) -> Mapping[str, bytes]:
        """See `KeyValue.seen`. What was seen last can be seen while `sick`, too."""
        return _Values(self.buckets[bucket])

    async def switch(self, capability: str, model: str, version: str = "1") -> None:
        """The model serves the capability from now on; nothing of it is checked."""
        serving = Serving(active=Target(model=model, version=version))
        await self.put(CAPABILITIES, capability, msgspec.json.encode(serving))

    def expire(self, bucket: str, key: str) -> None:
        """The value's time is over."""
        self.buckets[bucket].pop(key, None)

    def _bucket(self, name: str, key: str) -> dict[str, Entry]:
        if self.sick:
            raise Unavailable("queue", "JetStream does not answer: the fake is sick")
        if not 0 < len(key.encode()) <= MAX_KEY_BYTES:
            raise ValueError(f"a key must have 1 to {MAX_KEY_BYTES} bytes")
        return self.buckets[name]


class _Values(Mapping[str, bytes]):
    def __init__(self, entries: dict[str, Entry]) -> None:
        self._entries = entries

    def __getitem__(self, key: str) -> bytes:
        return self._entries[key].value

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
