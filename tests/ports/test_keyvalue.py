"""One suite over the fake and over a real NATS server: what `KeyValue` promises."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio
from nats.js.api import StreamConfig

from functions._kit.errors import Unavailable
from functions._kit.fakes import FakeKeyValue
from functions._kit.messages import new_id
from functions._kit.ports import Entry, KeyValue
from gateway.adapters import bucketcopy, jetstream, keyvalue
from gateway.adapters.background import end
from gateway.adapters.jetstream import connect
from gateway.adapters.keyvalue import (
    BUCKETS,
    BucketPlan,
    JetStreamKeyValue,
    decode_key,
    encode_key,
    ensure_buckets,
    open_key_values,
)
from gateway.embedded import EmbeddedServers, RunningNats

WAIT_S = 60
ODD_KEYS = [
    "camera.person.door",
    "traffic light",
    "Übergröße 写真 📷",
    "a=3D",
    "*",
    ">",
    ".",
    "..",
    ".a.",
    "a..b",
    "a b\t\n\0c",
    "%41",
    "a/b\\c",
]


@pytest.fixture(params=["fake", "jetstream"])
def address(request: pytest.FixtureRequest) -> str | None:
    """Where the real server is; None for the fake. Not async: it may start the server."""
    return str(request.getfixturevalue("nats_url")) if request.param == "jetstream" else None


@pytest_asyncio.fixture
async def values(address: str | None) -> AsyncIterator[KeyValue]:
    if address is None:
        yield FakeKeyValue()
        return
    client = await connect(address, name="tests")
    await ensure_buckets(client, 1)
    async with open_key_values(client) as real:
        yield real
    await client.close()


@pytest_asyncio.fixture
async def own_nats(tmp_path: Path) -> AsyncIterator[RunningNats]:
    """A server that a test may stop."""
    async with EmbeddedServers(tmp_path, want={"nats"}) as servers:
        yield servers.nats


@pytest.fixture
def key() -> str:
    return f"test-{new_id()}"


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not holds():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("bucket", BUCKETS)
async def test_what_was_put_is_there_and_what_was_not_is_none(
    values: KeyValue, bucket: str, key: str
) -> None:
    assert await values.get(bucket, key) is None
    revision = await values.put(bucket, key, b"value")
    assert await values.get(bucket, key) == Entry(b"value", revision)
    assert await values.get(bucket, f"{key}-other") is None


async def test_a_value_is_replaced_and_its_revision_grows(values: KeyValue, key: str) -> None:
    first = await values.put("cameras", key, b"one")
    second = await values.put("cameras", key, b"")
    assert second > first
    assert await values.get("cameras", key) == Entry(b"", second)


async def test_a_deleted_value_is_gone_and_may_be_deleted_again(values: KeyValue, key: str) -> None:
    await values.put("cameras", key, b"one")
    for _ in range(2):
        await values.delete("cameras", key)
        assert await values.get("cameras", key) is None
    await values.put("cameras", key, b"again")
    entry = await values.get("cameras", key)
    assert entry is not None
    assert entry.value == b"again"


async def test_a_swap_of_the_newest_revision_writes(values: KeyValue, key: str) -> None:
    assert await values.swap("cooldowns", key, b"first", revision=0)
    entry = await values.get("cooldowns", key)
    assert entry is not None
    assert await values.swap("cooldowns", key, b"second", revision=entry.revision)
    after = await values.get("cooldowns", key)
    assert after is not None
    assert (after.value, after.revision > entry.revision) == (b"second", True)


async def test_a_swap_of_another_revision_writes_nothing(values: KeyValue, key: str) -> None:
    old = await values.put("cooldowns", key, b"old")
    new = await values.put("cooldowns", key, b"new")
    for revision in (0, old, new + 1000):
        assert not await values.swap("cooldowns", key, b"mine", revision=revision)
    assert await values.get("cooldowns", key) == Entry(b"new", new)
    assert not await values.swap("cooldowns", f"{key}-absent", b"mine", revision=new)
    assert await values.get("cooldowns", f"{key}-absent") is None


async def test_after_a_delete_there_is_none_to_a_swap(values: KeyValue, key: str) -> None:
    old = await values.put("cooldowns", key, b"old")
    await values.delete("cooldowns", key)
    assert not await values.swap("cooldowns", key, b"mine", revision=old)
    assert await values.swap("cooldowns", key, b"mine", revision=0)


async def test_of_many_swaps_at_once_one_writes(values: KeyValue, key: str) -> None:
    for revision in (0, await values.put("cooldowns", f"{key}-there", b"x")):
        name = f"{key}-there" if revision else key
        done = await asyncio.gather(
            *(values.swap("cooldowns", name, bytes([n]), revision=revision) for n in range(20))
        )
        assert done.count(True) == 1
        entry = await values.get("cooldowns", name)
        assert entry is not None
        assert entry.value == bytes([done.index(True)])


@pytest.mark.parametrize("name", ODD_KEYS)
async def test_any_text_is_a_key(values: KeyValue, key: str, name: str) -> None:
    for odd in (f"{key}{name}", name + key):
        await values.put("cameras", odd, name.encode())
        entry = await values.get("cameras", odd)
        assert entry is not None
        assert entry.value == name.encode()
        await until(lambda odd=odd: odd in values.seen("cameras"))  # type: ignore[misc]
        await values.delete("cameras", odd)
        assert await values.get("cameras", odd) is None


def test_keys_are_written_each_in_its_own_way_and_read_back() -> None:
    written = {encode_key(key) for key in ODD_KEYS}
    assert len(written) == len(ODD_KEYS)
    assert [decode_key(encode_key(key)) for key in ODD_KEYS] == ODD_KEYS
    assert encode_key("front-door.person") == "front-door.person"


async def test_an_empty_key_and_an_endless_one_are_refused(values: KeyValue) -> None:
    for bad in ("", "x" * 5000):
        with pytest.raises(ValueError, match="a key must have 1 to 1024 bytes"):
            await values.put("cameras", bad, b"")


async def test_another_bucket_is_none_of_ours(values: KeyValue) -> None:
    with pytest.raises(KeyError):
        values.seen("absent")
    with pytest.raises(KeyError):
        await values.get("absent", "key")


async def test_one_bucket_knows_nothing_of_another(values: KeyValue, key: str) -> None:
    await values.put("cameras", key, b"camera")
    assert await values.get("capabilities", key) is None


@pytest.mark.parametrize("bucket", BUCKETS)
async def test_changes_are_seen_a_moment_later(values: KeyValue, bucket: str, key: str) -> None:
    seen = values.seen(bucket)
    assert seen.get(key) is None
    await values.put(bucket, key, b"one")
    await until(lambda: seen.get(key) == b"one")
    await values.put(bucket, key, b"two")
    await until(lambda: seen[key] == b"two")
    assert key in list(seen)
    assert dict(seen)[key] == b"two"
    assert len(seen) == len(list(seen))
    await values.delete(bucket, key)
    await until(lambda: key not in seen)
    assert key not in list(seen)


async def test_what_was_there_before_is_seen_from_the_start(nats_url: str, key: str) -> None:
    client = await connect(nats_url, name="tests")
    await ensure_buckets(client, 1)
    writer = JetStreamKeyValue(client)
    for number in range(300):
        await writer.put("cameras", f"{key}.{number}", b"old")
        await writer.put("cameras", f"{key}.{number}", str(number).encode())
    await writer.delete("cameras", f"{key}.7")
    async with open_key_values(client) as values:
        found = {name: v for name, v in values.seen("cameras").items() if name.startswith(key)}
    expected = {f"{key}.{n}": str(n).encode() for n in range(300) if n != 7}
    assert found == expected
    await client.close()


async def test_the_history_of_capabilities_is_kept(nats_url: str, key: str) -> None:
    client = await connect(nats_url, name="tests")
    await ensure_buckets(client, 1)
    values = JetStreamKeyValue(client)
    for number in range(7):
        await values.put("capabilities", key, str(number).encode())
        await values.put("cameras", key, str(number).encode())
    js = client.jetstream()
    for bucket, kept in (("capabilities", [b"2", b"3", b"4", b"5", b"6"]), ("cameras", [b"6"])):
        found = await (await js.key_value(bucket)).history(key)
        assert [entry.value for entry in found] == kept
    await client.close()


async def test_several_processes_make_the_buckets_at_once(own_nats: RunningNats) -> None:
    clients = [await connect(own_nats.url, name="tests") for _ in range(5)]
    await asyncio.gather(*(ensure_buckets(client, 1) for client in clients))
    plans = {name: (plan.history, plan.lifetime_s) for name, plan in BUCKETS.items()}
    js = clients[0].jetstream()
    for name, (history, lifetime_s) in plans.items():
        status = await (await js.key_value(name)).status()
        assert (status.history, status.ttl or math.inf) == (history, lifetime_s)
    for client in clients:
        await client.close()


async def test_a_value_whose_time_is_over_is_gone_and_no_longer_seen(
    own_nats: RunningNats, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = BucketPlan(lifetime_s=4.0)
    monkeypatch.setattr(keyvalue, "BUCKETS", {"sickness": plan, "cameras": BucketPlan()})
    client = await connect(own_nats.url, name="tests")
    await ensure_buckets(client, 1)
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(open_key_values(client))
        await first.put("cameras", "stays", b"x")
        began = asyncio.get_running_loop().time()
        await first.put("sickness", "triton", b"out of memory")
        await until(lambda: "triton" in first.seen("sickness"))
        late = await stack.enter_async_context(open_key_values(client))
        assert late.seen("sickness") == {"triton": b"out of memory"}
        for values in (first, late):
            await until(lambda v=values: not v.seen("sickness"))  # type: ignore[misc]
        lasted_s = asyncio.get_running_loop().time() - began
        assert lasted_s > 3.5
        async with asyncio.timeout(WAIT_S):
            while await first.get("sickness", "triton") is not None:
                await asyncio.sleep(0.05)
        await first.put("sickness", "triton", b"again")
        await until(lambda: late.seen("sickness").get("triton") == b"again")
        assert late.seen("cameras") == {"stays": b"x"}
    await client.close()


async def test_a_fake_value_whose_time_is_over_is_gone() -> None:
    values = FakeKeyValue()
    await values.put("sickness", "triton", b"x")
    values.expire("sickness", "triton")
    assert await values.get("sickness", "triton") is None
    assert not values.seen("sickness")


async def test_no_change_is_missed_when_nats_is_killed_and_comes_back(
    own_nats: RunningNats, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(bucketcopy, "HEARTBEAT_S", 0.3)
    monkeypatch.setattr(bucketcopy, "SILENCE_S", 0.75)
    client = await connect(own_nats.url, name="tests")
    await ensure_buckets(client, 1)
    async with open_key_values(client) as values:
        seen = values.seen("cameras")
        for name in ("stays", "changes", "goes"):
            await values.put("cameras", name, b"before")
        await until(lambda: len(seen) == 3)
        own_nats.process._signal(9)  # type: ignore[arg-type]
        await own_nats.process.exited()
        await until(lambda: not client.is_connected)
        assert len(seen) == 3, "what was seen last is seen on"
        await until(lambda: caplog.text.count("is watched again") >= 3 * len(BUCKETS))
        await own_nats.process.restart()
        # another process is back first, and writes what we are not told of
        other = await connect(own_nats.url, name="other")
        writer = JetStreamKeyValue(other)
        await writer.put("cameras", "changes", b"after")
        await writer.delete("cameras", "goes")
        await writer.put("cameras", "comes", b"after")
        now = {"stays": b"before", "changes": b"after", "comes": b"after"}
        await until(lambda: seen == now)
        await writer.put("cameras", "stays", b"later")
        await until(lambda: seen["stays"] == b"later")
        await other.close()
    await client.close()


async def test_a_bucket_that_was_emptied_behind_our_back_is_seen_empty(
    own_nats: RunningNats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucketcopy, "HEARTBEAT_S", 0.3)
    monkeypatch.setattr(bucketcopy, "SILENCE_S", 0.75)
    client = await connect(own_nats.url, name="tests")
    await ensure_buckets(client, 1)
    async with open_key_values(client) as values:
        for number in range(5):
            await values.put("cameras", str(number), b"x")
        await until(lambda: len(values.seen("cameras")) == 5)
        js = client.jetstream()
        config: StreamConfig = (await js.stream_info("KV_cameras")).config
        await js.delete_stream("KV_cameras")
        await js.add_stream(config)
        await values.put("cameras", "new", b"y")
        await until(lambda: values.seen("cameras") == {"new": b"y"})
    await client.close()


async def test_a_lost_server_is_unavailable(
    own_nats: RunningNats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jetstream, "CONNECT_TIMEOUT_S", 1.0)
    client = await connect(own_nats.url, name="tests")
    await ensure_buckets(client, 1)
    values = JetStreamKeyValue(client)
    await own_nats.process.stop()
    await until(lambda: not client.is_connected)
    await _is_unavailable(values)
    monkeypatch.setattr(keyvalue, "FIRST_COPY_S", 0.2)
    with pytest.raises(Unavailable):
        async with open_key_values(client):
            raise AssertionError
    await client.close()


async def test_a_sick_fake_is_unavailable_and_shows_what_it_saw_last() -> None:
    values = FakeKeyValue()
    await values.put("cameras", "a", b"x")
    values.sick = True
    await _is_unavailable(values)
    assert values.seen("cameras") == {"a": b"x"}


async def _is_unavailable(values: KeyValue) -> None:
    for call in (
        values.get("cameras", "a"),
        values.put("cameras", "a", b""),
        values.swap("cameras", "a", b"", revision=0),
        values.delete("cameras", "a"),
    ):
        with pytest.raises(Unavailable) as caught:
            await call
        assert (caught.value.code, caught.value.backend) == ("queue_unavailable", "queue")


async def test_watching_ends_while_changes_come(own_nats: RunningNats) -> None:
    """A message that comes at the moment of a cancellation must not swallow it."""
    client = await connect(own_nats.url, name="tests")
    await ensure_buckets(client, 1)
    writer = JetStreamKeyValue(client)

    async def keep_changing() -> None:
        while True:
            await asyncio.gather(*(writer.put("cameras", "a", b"x") for _ in range(20)))

    changing = asyncio.create_task(keep_changing())
    for _ in range(30):
        async with open_key_values(client) as values:
            await until(lambda v=values: "a" in v.seen("cameras"))  # type: ignore[misc]
    await end(changing)
    await client.close()
