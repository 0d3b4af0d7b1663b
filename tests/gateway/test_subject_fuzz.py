"""Every subject and bucket fed with garbage, over a real JetStream: it ends, with a reason.

All consumers of the registry run in one real worker, over fakes of the other servers.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import logging
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
import pytest_asyncio
import pyvips

from functions._kit.consume import Consumer, Tick
from functions._kit.fakes import (
    FakeAudioConverter,
    FakeClientStore,
    FakeDeadLetters,
    FakeFigures,
    FakeLanguageModel,
    FakeObjects,
    FakePictureDecoder,
    FakeStream,
)
from functions._kit.messages import new_id, now
from functions._kit.ports import (
    AlertFilter,
    AlertStore,
    AudioConverter,
    ClientStore,
    DeadLetters,
    Figures,
    Inference,
    KeyValue,
    LanguageModel,
    Limits,
    ModelServer,
    Objects,
    PictureDecoder,
    Stream,
    Tally,
    TaskStore,
)
from functions.alerts.contracts import Frame, frame_subject
from functions.tasks.contracts import DeadLetter, Status, Task, TaskEvent, event_subject
from gateway.adapters.jetstream import (
    JetStream,
    StreamLimits,
    connect,
    ensure_stream,
    ensure_streams,
    stream_configs,
)
from gateway.adapters.keyvalue import BUCKETS, ensure_buckets, open_key_values
from gateway.adapters.spare import open_spare
from gateway.adapters.tables import AlertTable, TaskTable, open_database
from gateway.adapters.tally import open_tally
from gateway.embedded import EmbeddedServers
from gateway.registry import Function, discover
from gateway.worker import Worker
from gateway.worker.pull import sources_of
from tests.functions.conftest import LIMITS, SeeingInference
from tests.fuzz.asked import MINUTES, seed, times
from tests.gateway.messages import mistyped, unreadable

MISTYPED = times(24, 60)
"""Messages a subject in which one field is wrong."""
STRAY = ("spare.gate", "spare.jobs", "spare.spare.jobs.gate", "spare.events.task.gate")
"""Subjects of SPARE that belong to no queue."""


@dataclass
class House:
    """A worker with every consumer, and what it works on."""

    stream: JetStream
    values: KeyValue
    objects: FakeObjects
    inference: SeeingInference
    tasks: TaskTable
    alerts: AlertTable
    consumers: list[tuple[str, Consumer]]
    working: asyncio.Task[None]

    def subjects(self) -> list[tuple[str, Consumer]]:
        """A subject of each durable consumer."""
        return [
            (source.subject.replace("*", "gate").replace(">", "gate"), consumer)
            for name, consumer in self.consumers
            for source in sources_of(consumer, name)
        ]

    async def send(self, subject: str, data: bytes, headers: dict[str, str] | None = None) -> None:
        """As a stranger does."""
        js = self.stream.client.jetstream(timeout=60)
        await js.publish(subject, data, headers=headers)

    async def dealt_with(self) -> None:
        """Wait until nothing waits and nothing is in hand."""
        js = self.stream.client.jetstream()
        async with asyncio.timeout(400 + MINUTES * 60):
            for name, consumer in self.consumers:
                for source in sources_of(consumer, name):
                    while True:
                        assert not self.working.done(), "the worker has ended"
                        info = await js.consumer_info(source.stream, source.durable)
                        if not info.num_pending and not info.num_ack_pending:
                            break
                        await asyncio.sleep(0.05)

    async def last_letter(self) -> int:
        """The sequence of the newest dead letter."""
        return (await self.stream.client.jetstream().stream_info("DEAD")).state.last_seq

    async def letters(self, after: int) -> list[DeadLetter]:
        """The dead letters behind that sequence."""
        js = self.stream.client.jetstream()
        return [
            msgspec.json.decode((await js.get_msg("DEAD", n)).data or b"", type=DeadLetter)
            for n in range(after + 1, await self.last_letter() + 1)
        ]

    async def alerts_of(self, camera: str) -> int:
        """How many alerts of the camera are written."""
        page = await self.alerts.page(AlertFilter(camera_id=camera), cursor=None, limit=10)
        return len(page.rows)

    async def does_good_work(self) -> None:
        """A good frame becomes an alert, and a task's event a row."""
        camera = f"good-{new_id()}"
        picture = pyvips.Image.black(640, 480, bands=3).copy(interpretation="srgb")
        key = f"cameras/{camera}.jpg"
        self.objects.contents[key] = bytes(picture.jpegsave_buffer())
        self.objects._types[key] = "image/jpeg"
        self.inference.sees = [(10.0, 10.0, 50.0, 50.0, 0.9, 0)]
        task = Task(task_id=new_id(), client_id="c", workflow="w", priority=5, created_at=now())
        event = TaskEvent(event_id=new_id(), task=task, status=Status.QUEUED, at=now())
        await self.stream.publish(event_subject(task.task_id), event)
        await self.stream.publish(
            frame_subject(camera), Frame(key=key, captured_at=now()), message_id=new_id()
        )
        async with asyncio.timeout(60):
            while not await self.tasks.get(task.task_id):
                await asyncio.sleep(0.02)
            while not await self.alerts_of(camera):
                await asyncio.sleep(0.02)
        assert not self.working.done()


def hurried(function: Function) -> Function:
    """The function with short pauses between attempts, and no clock."""
    consumers = [
        dataclasses.replace(
            consumer,
            policy=dataclasses.replace(consumer.policy, backoff_s=(0.01,), every_s=None),
        )
        for consumer in function.consumers
    ]
    return dataclasses.replace(function, consumers=consumers)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    folder = tmp_path_factory.mktemp("fuzz")
    async with AsyncExitStack() as stack:
        servers = await stack.enter_async_context(
            EmbeddedServers(folder / "nats", want={"nats", "postgres"})
        )
        client = await connect(servers.nats.url, name="fuzz")
        stack.push_async_callback(client.close)
        await ensure_streams(client, StreamLimits())
        await ensure_buckets(client, 1)
        spare = stream_configs(StreamLimits(replicas=3))[0]
        spare.num_replicas = 1
        await ensure_stream(client, spare)
        stream = JetStream(client)
        await stack.enter_async_context(open_spare(stream))
        values = await stack.enter_async_context(open_key_values(client))
        tally = await stack.enter_async_context(open_tally(stream))
        objects, inference = FakeObjects(), SeeingInference()
        converter = FakeAudioConverter()
        database = await stack.enter_async_context(open_database(servers.postgres.url))
        tasks, alerts = TaskTable(database), AlertTable(database)
        ports: dict[type, Any] = {
            Stream: stream,
            Objects: objects,
            Inference: inference,
            ModelServer: inference,
            TaskStore: tasks,
            AlertStore: alerts,
            KeyValue: values,
            DeadLetters: FakeDeadLetters(FakeStream()),
            Tally: tally,
            AudioConverter: converter,
            PictureDecoder: FakePictureDecoder(),
            LanguageModel: FakeLanguageModel(),
            Figures: FakeFigures(converter),
            ClientStore: FakeClientStore(),
            Limits: Limits(**LIMITS),
        }
        functions = [hurried(function) for function in discover() if function.consumers]
        worker = Worker(functions, ports, stream, {}, scratch=folder, drain_s=5.0)
        stop, ready = asyncio.Event(), asyncio.Event()
        working = asyncio.create_task(worker.run(stop, ready))
        await ready.wait()
        yield House(
            stream,
            values,
            objects,
            inference,
            tasks,
            alerts,
            [(function.name, one) for function in functions for one in function.consumers],
            working,
        )
        stop.set()
        await working


pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(600 + MINUTES * 120),
]


def faults_of_the_worker(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        r.getMessage() for r in caplog.records if "error of the worker itself" in r.getMessage()
    ]


async def test_what_cannot_be_read_is_put_away_with_its_reason(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    sent: Counter[str] = Counter()
    rng = random.Random(seed(11))
    before = await house.last_letter()
    for subject, consumer in house.subjects():
        for data in unreadable(consumer.message_type, rng):
            await house.send(subject, data)
            sent[subject] += 1
    await house.dealt_with()
    found = await house.letters(before)
    assert Counter(letter.subject for letter in found) == sent
    assert {letter.code for letter in found} == {"unreadable"}
    assert all(letter.message for letter in found)
    assert not faults_of_the_worker(caplog)
    await house.does_good_work()


async def test_what_is_mistyped_ends_and_harms_nobody(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    rng = random.Random(seed(12))
    before = await house.last_letter()
    for subject, consumer in house.subjects():
        for data in mistyped(consumer.message_type, rng, MISTYPED):
            await house.send(subject, data)
    await house.dealt_with()
    found = await house.letters(before)
    assert {letter.subject for letter in found} <= {subject for subject, _ in house.subjects()}
    assert "unreadable" in {letter.code for letter in found}
    faults = {(letter.subject, letter.code) for letter in found if letter.code == "internal_error"}
    assert not faults
    assert all(letter.code and letter.message for letter in found)
    assert not faults_of_the_worker(caplog)
    await house.does_good_work()


async def test_what_strays_into_spare_is_dropped_or_put_away_as_its_queue_would(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "gateway.adapters.spare")
    rng = random.Random(seed(13))
    queued = [one for one in house.subjects() if one[0].startswith(("jobs.", "frames."))]
    before = await house.last_letter()
    sent: Counter[str] = Counter()
    for subject, consumer in queued:
        for data in unreadable(consumer.message_type, rng):
            await house.send(f"spare.{subject}", data)
            sent[subject] += 1
    for subject in STRAY:
        await house.send(subject, rng.randbytes(200))
    async with asyncio.timeout(400 + MINUTES * 60):
        while await house.stream.count("spare.>"):
            await asyncio.sleep(0.05)
    await house.dealt_with()
    assert Counter(letter.subject for letter in await house.letters(before)) == sent
    for subject in STRAY:
        assert f"a message on {subject} is dropped" in caplog.text
    assert not faults_of_the_worker(caplog)
    await house.does_good_work()


async def test_headers_of_strangers_are_only_words(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    for (subject, _), header, word in itertools.product(
        house.subjects(), ("Nereid-Spent", "traceparent"), ("", "many", "-5", "9" * 30, "1e9")
    ):
        await house.send(subject, b"{", {header: word})
    await house.dealt_with()
    assert not faults_of_the_worker(caplog)
    await house.does_good_work()


KEYS = {
    "cameras": ("gate",),
    "capabilities": ("detect", "transcribe", "upscale.realesr-animevideov3-x2"),
    "models": ("nanodet-g-416/1",),
}
"""Keys of values that this worker reads while it works on `gate`."""
GARBAGE = (b"", b"\xff\x00", b"{", b"[]", b'{"labels": 7}', b"null", b"x" * 100_000)


@pytest.mark.parametrize("bucket", sorted(BUCKETS))
async def test_garbage_in_a_bucket_stops_nobody(
    house: House, bucket: str, caplog: pytest.LogCaptureFixture
) -> None:
    keys = (*KEYS.get(bucket, ()), "x", "a/b", "a.b", "triton", new_id())
    ticks = [subject for subject, consumer in house.subjects() if consumer.message_type is Tick]
    for value in GARBAGE:
        for key in keys:
            await house.values.put(bucket, key, value)
        for subject in ticks:
            await house.send(subject, msgspec.json.encode({"at": now()}))
    picture = pyvips.Image.black(64, 48, bands=3).copy(interpretation="srgb")
    house.objects.contents["cameras/x.jpg"] = bytes(picture.jpegsave_buffer())
    frame = Frame(key="cameras/x.jpg", captured_at=now())
    before = await house.last_letter()
    await house.stream.publish(frame_subject("gate"), frame, message_id=new_id())
    await house.dealt_with()
    assert [x for x in await house.letters(before) if x.subject == frame_subject("gate")] == []
    assert not faults_of_the_worker(caplog)
    for key in keys:
        await house.values.delete(bucket, key)
    await house.does_good_work()
