"""A real NATS cluster of three: what must hold when the leader of a stream dies."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import string
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import nats.errors
import pytest
import pytest_asyncio
from nats.aio.client import Client

from functions._kit.consume import consume
from functions._kit.errors import JobFailed, Unavailable
from functions._kit.messages import Message, new_id
from functions._kit.policy import Policy
from functions._kit.ports import Letter, Receipt
from gateway.adapters.deadletters import JetStreamDeadLetters
from gateway.adapters.jetstream import (
    JetStream,
    StreamLimits,
    connect,
    ensure_streams,
    servers_of,
)
from gateway.adapters.keyvalue import BUCKETS, JetStreamKeyValue, ensure_buckets
from gateway.adapters.reaching import patiently
from gateway.adapters.spare import STEP_DOWN, Spare, open_spare
from gateway.embedded import RunningCluster, nats_cluster
from gateway.registry import Function
from gateway.worker import Worker

T = TypeVar("T")

WAIT_S = 120
LIMITS = StreamLimits(replicas=3)


class Fact(Message, frozen=True, kw_only=True):
    number: int = 0


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked while there is no leader is never answered: it is asked again sooner."""
    monkeypatch.setattr("gateway.adapters.jetstream.ASK_TIMEOUT_S", 2.0)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningCluster]:
    """Its streams have one copy at first, as those of a single server that became a cluster."""
    async with nats_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        client = await connect(cluster.url, name="test")
        await ensure_streams(client, StreamLimits())
        await client.close()
        yield cluster


@pytest_asyncio.fixture(loop_scope="module")
async def cluster(running: RunningCluster) -> AsyncIterator[RunningCluster]:
    """All servers run, before the test and after it."""
    yield running
    for process in running.servers.values():
        if process.ended:
            await process.restart()
    await running.whole()


@pytest_asyncio.fixture(loop_scope="module")
async def client(cluster: RunningCluster) -> AsyncIterator[Client]:
    client = await connect(cluster.url, name="test")
    await ensure_streams(client, LIMITS)
    await ensure_buckets(client, LIMITS.replicas)
    await cluster.whole()
    yield client
    await client.close()


async def kill(cluster: RunningCluster, name: str) -> None:
    process = cluster.servers[name]
    os.kill(process.pid, signal.SIGKILL)
    await process.exited()


async def answer(ask: Callable[[], Awaitable[T]]) -> T:
    """What is said once there is a leader to say it; what was not answered is asked again."""
    async with asyncio.timeout(WAIT_S):
        while True:
            with contextlib.suppress(Unavailable):
                return await ask()
            await asyncio.sleep(0.05)


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Return when `holds` says so; a leader that is being elected says nothing."""
    async with asyncio.timeout(WAIT_S):
        while not await answer(holds):
            await asyncio.sleep(0.05)


async def apart(cluster: RunningCluster, spare: Spare) -> None:
    """Return when SPARE has another leader than the queues."""

    async def is_apart() -> bool:
        await spare.part()
        leaders = [await cluster.leader(name) for name in ("SPARE", "JOBS", "FRAMES")]
        return leaders[0] not in leaders[1:]

    await until(is_apart)


async def sent(stream: JetStream, subject: str, numbers: Collection[int]) -> None:
    """Each is accepted, if not at once: what is refused is sent again, as a caller does."""
    for number in numbers:
        fact = Fact(number=number)

        async def is_accepted(fact: Fact = fact) -> bool:
            await stream.publish(subject, fact, message_id=f"{subject}:{fact.number}")
            return True

        await until(is_accepted)


async def stored(stream: JetStream, subject: str) -> list[int]:
    """The numbers of all facts on `subject`."""
    js = stream.client.jetstream()
    count = await patiently(lambda: js.stream_info("JOBS", subjects_filter=subject))
    numbers, after = [], 0
    for _ in range((count.state.subjects or {}).get(subject, 0)):
        found = await patiently(partial(js.get_msg, "JOBS", after + 1, subject, next=True))
        after = found.seq or 0
        numbers.append(msgspec.json.decode(found.data or b"", type=Fact).number)
    return numbers


@pytest.mark.asyncio(loop_scope="module")
async def test_every_stream_and_bucket_has_a_copy_on_each_server(client: Client) -> None:
    infos = await client.jetstream().streams_info()
    names = {info.config.name for info in infos}
    assert names >= {"JOBS", "FRAMES", "EVENTS", "DEAD", "SPARE"}
    assert names >= {f"KV_{name}" for name in BUCKETS}
    assert {info.config.num_replicas for info in infos} == {3}


@pytest.mark.long
@pytest.mark.asyncio(loop_scope="module")
async def test_streams_and_buckets_are_made_while_their_leaders_are_elected(
    cluster: RunningCluster, client: Client
) -> None:
    await kill(cluster, await cluster.leader("JOBS"))
    await ensure_streams(client, LIMITS)
    await ensure_buckets(client, LIMITS.replicas)
    values = JetStreamKeyValue(client)
    key = new_id()
    await answer(lambda: values.put("models", key, b"value"))
    entry = await answer(lambda: values.get("models", key))
    assert entry is not None
    assert entry.value == b"value"


@pytest.mark.asyncio(loop_scope="module")
async def test_spare_has_another_leader_than_the_queues(
    cluster: RunningCluster, client: Client
) -> None:
    spare = Spare(JetStream(client, clustered=True))
    await apart(cluster, spare)
    ask = msgspec.json.encode({"placement": {"preferred": await cluster.leader("JOBS")}})

    async def is_together() -> bool:
        with contextlib.suppress(nats.errors.TimeoutError):
            await client.request(STEP_DOWN, ask, timeout=2)
        return await cluster.leader("SPARE") == await cluster.leader("JOBS")

    await until(is_together)
    await apart(cluster, spare)


@pytest.mark.asyncio(loop_scope="module")
async def test_a_leaders_death_loses_nothing_that_was_accepted_and_doubles_nothing(
    cluster: RunningCluster, client: Client
) -> None:
    stream, subject = JetStream(client, clustered=True), f"jobs.test.{new_id()}"
    async with open_spare(stream) as spare:
        await apart(cluster, spare)
        await sent(stream, subject, range(20))
        await kill(cluster, await cluster.leader("JOBS"))
        # what began before the death, what nobody leads, and what the next leader takes
        await asyncio.gather(*(sent(stream, subject, range(n, n + 10)) for n in range(20, 60, 10)))
        await cluster.leader("JOBS")
        await sent(stream, subject, range(60, 80))
        await sent(stream, subject, range(80))  # all of it once more: their answers were lost

        async def is_empty() -> bool:
            return await stream.count("spare.>") == 0

        await until(is_empty)
        assert sorted(await stored(stream, subject)) == list(range(80))


class Interrupted(JetStream):
    """Something happens once, around the copy of a message to the dead letters."""

    def __init__(self, client: Client, happens: Callable[[], Awaitable[None]], when: str) -> None:
        super().__init__(client, clustered=True)
        self.happens, self.when = happens, when

    async def publish(
        self, subject: str, message: Any, *, message_id: str | None = None
    ) -> Receipt:
        if not subject.startswith("dead."):
            return await super().publish(subject, message, message_id=message_id)
        await self._happen("before")
        receipt = await super().publish(subject, message, message_id=message_id)
        await self._happen("after")
        return receipt

    async def _happen(self, when: str) -> None:
        if self.when == when:
            self.when = "over"
            await self.happens()


@asynccontextmanager
async def working(function: Function, stream: JetStream, scratch: Path) -> AsyncIterator[None]:
    """A worker, within the block."""
    probes = {"queue": stream.whole}
    worker = Worker([function], {}, stream, probes, scratch=scratch, drain_s=5.0)
    stop, ready = asyncio.Event(), asyncio.Event()
    running = asyncio.create_task(worker.run(stop, ready))
    await ready.wait()
    try:
        yield
    finally:
        stop.set()
        await running


@pytest.mark.parametrize(
    ("leads", "when"),
    [
        ("DEAD", "before"),
        ("JOBS", "after"),
        pytest.param("DEAD", "after", marks=pytest.mark.long),
        pytest.param("JOBS", "before", marks=pytest.mark.long),
    ],
)
@pytest.mark.asyncio(loop_scope="module")
async def test_a_dead_letter_outlives_the_leader_and_is_there_once(
    cluster: RunningCluster, client: Client, tmp_path: Path, leads: str, when: str
) -> None:
    """The server that leads a stream dies as the message that nobody can deal with is copied."""
    name = "test." + "".join(random.choices(string.ascii_lowercase, k=12))
    failing, seen = True, []

    @consume(f"jobs.{name}", policy=Policy(attempts=1, ack_wait_s=2.0))
    async def handle(fact: Fact) -> None:
        if failing:
            raise JobFailed("no_use", "nothing can be done")
        seen.append(fact.number)

    async def die() -> None:
        await kill(cluster, await cluster.leader(leads))

    stream = Interrupted(client, die, when)
    letters = JetStreamDeadLetters(stream)
    function = Function(name, "a test", [], [handle])
    async with open_spare(stream), working(function, stream, tmp_path):
        await answer(lambda: stream.publish(f"jobs.{name}", Fact(number=7), message_id=name))
        found: list[Letter] = []

        async def is_over() -> bool:
            return stream.when == "over" and await stream.count(f"jobs.{name}") == 0

        async def is_there() -> bool:
            found[:] = await letters.page(function=name, before=None, limit=10)
            return bool(found)

        await until(is_over)
        await until(is_there)
        assert await answer(lambda: stream.count(f"dead.{name}")) == 1
        (letter,) = found
        assert (letter.content.code, letter.content.attempts) == ("no_use", 1)
        assert letter.content.payload == b'{"number":7}'

        failing = False

        async def is_sent_again() -> bool:
            await letters.send_again(letter)
            return await stream.count(f"dead.{name}") == 0

        async def is_done() -> bool:
            left = [await stream.count(subject) for subject in (f"jobs.{name}", "spare.>")]
            return bool(seen) and left == [0, 0]

        await until(is_sent_again)
        await until(is_done)
    assert seen == [7]
    await answer(lambda: stream.publish(f"dead.{name}", letter.content, message_id=f"dead:{name}"))

    async def is_purged() -> bool:
        await letters.purge(function=name)
        return await letters.page(function=name, before=None, limit=10) == []

    await until(is_purged)


@pytest.mark.asyncio(loop_scope="module")
async def test_more_replicas_than_servers_are_refused_with_the_reason(nats_url: str) -> None:
    client = await connect(nats_url, name="test")
    with pytest.raises(Unavailable, match="replicas > 1 not supported in non-clustered mode"):
        await ensure_streams(client, LIMITS)
    await client.close()


@pytest.mark.parametrize(
    ("url", "servers", "credentials"),
    [
        ("nats://one:4222", ["nats://one:4222"], {}),
        ("nats://u:p@one:1", ["nats://one:1"], {"user": "u", "password": "p"}),
        ("tls://t@one, tls://t@two ,", ["tls://one", "tls://two"], {"token": "t"}),
        ("u:p@one:1,u:p@two:1", ["one:1", "two:1"], {"user": "u", "password": "p"}),
    ],
)
def test_an_address_names_several_servers(
    url: str, servers: list[str], credentials: dict[str, str]
) -> None:
    assert servers_of(url) == (servers, credentials)
