"""The schedule of a chaos is its seed's alone, and what is told of it is computed rightly."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from chaos.cluster import fill, restore
from chaos.evidence import Told
from chaos.faults import Done, Saboteur
from chaos.ledger import FrameEntry, Ledger, TaskEntry
from chaos.plan import KINDS, LEADERS, LINES, PARTS, QUEUES, WORKERS, Fault, kinds_of, plan, touched
from chaos.proxy import proxy_to
from chaos.report import line, longest_gap, resumed, timings, too_few
from chaos.verdict import counts

from functions._kit.errors import QueueFull
from gateway.adapters.jetstream import JetStream, StreamLimits, connect, ensure_streams
from gateway.embedded import RunningNats


def test_the_same_seed_gives_the_same_run() -> None:
    assert plan(7, 660, 106) == plan(7, 660, 106)
    assert plan(7, 660, 106).faults != plan(8, 660, 106).faults
    assert plan(7, 660, 106).inputs != plan(8, 660, 106).inputs


@pytest.mark.parametrize("seed", range(5))
def test_every_kind_of_fault_comes_within_the_run_and_in_order(seed: int) -> None:
    planned = plan(seed, 180, 29)
    assert len(planned.faults) == 29
    assert {fault.kind for fault in planned.faults} == set(kinds_of(180))
    moments = [fault.at_s for fault in planned.faults]
    assert moments == sorted(moments)
    assert all(fault.at_s + fault.seconds <= 180.001 for fault in planned.faults)
    assert all(fault.target in KINDS[fault.kind].targets for fault in planned.faults)
    assert all(0 <= one.at_s <= 180 for one in planned.inputs)


def test_a_long_run_breaks_every_part_and_sends_enough() -> None:
    planned = plan(7, 660, 106)
    hit = {part for fault in planned.faults for part in touched(fault.target)}
    assert hit >= set(PARTS)
    assert {fault.kind for fault in planned.faults} == set(KINDS)
    assert {fault.target for fault in planned.faults} >= set(LEADERS)
    kinds = [one.kind for one in planned.inputs]
    assert len(kinds) - kinds.count("conversion") >= 1000
    assert kinds.count("photo") + kinds.count("speech") >= 200
    assert max(fault.seconds for fault in planned.faults) <= 60


@pytest.mark.parametrize("seed", range(5))
def test_a_long_run_halts_a_worker_a_queue_and_the_database_for_long(seed: int) -> None:
    long = {
        fault.target
        for fault in plan(seed, 480, 77).faults
        if fault.kind == "halt" and fault.seconds >= 45
    }
    assert long & set(WORKERS)
    assert long & set(QUEUES)
    assert "postgres" in long


def told(task_id: str, status: str, at: float, attempts: int = 1) -> Told:
    return Told(task_id=task_id, status=status, attempts=attempts, at=at)


def test_a_killed_workers_job_is_timed_from_the_death_to_its_next_beginning() -> None:
    events = [
        told("mine", "processing", 4.0),
        told("mine", "processing", 31.0, 2),
        told("mine", "completed", 32.0, 2),
        told("over", "processing", 1.0),
        told("over", "completed", 2.0),
        told("elsewhere", "processing", 4.0),
        told("elsewhere", "processing", 9.0),
        told("later", "processing", 20.0),
        told("waiting", "processing", 1.0),
        told("waiting", "processing", 90.0, 2),
    ]
    assert resumed(events, 5.0) == [26.0]


def test_a_gap_is_looked_for_after_the_leaders_death_alone() -> None:
    accepted = [0.0, 8.0, 10.0, 11.0, 14.0, 15.0, 60.0]
    assert longest_gap(accepted, 10.5) == 45.0
    assert longest_gap(accepted[:-1], 10.5) == 3.0
    assert longest_gap([], 10.5) == 0.0


def test_the_line_counts_what_was_done() -> None:
    task = TaskEntry(task_id="a", kind="photo", accepted_at=1.0)
    frame = FrameEntry(captured_at="b", number=1, labels=(), accepted=True)
    ledger = Ledger(tasks={"a": task}, frames={"b": frame}, accepted_at=[1.0, 9.0])
    done = [
        Done(kind="kill", target="s3", part="s3", at=1.0, seconds=0),
        Done(kind="kill the leader", target="JOBS", part="nats-1", at=2.0, seconds=0),
        Done(kind="kill", target="worker-1", part="worker-1", at=2.0, seconds=0, real=False),
    ]
    assert line(ledger, done, counts([])).startswith(
        "accepted 2 (1 tasks, 1 frames) faults 2 (2 deaths, 2 kinds) lost 0 stuck 0 "
    )
    assert timings(ledger, done, []).publish_gap_s == [7.0]


def test_a_run_that_broke_too_little_says_so() -> None:
    real = [Done(kind="cut", target="s3", part="s3", at=1.0, seconds=0)] * 2
    idle = Done(kind="kill", target="s3", part="s3", at=2.0, seconds=0, real=False)
    assert too_few([*real, idle], 3) == ""
    assert too_few([*real, idle, idle], 4).startswith("2 of 4 faults ")


async def test_a_spare_fault_stands_for_one_that_found_nothing_to_break() -> None:
    class Idle(Saboteur):
        """Breaks nothing but cuts."""

        async def do(self, fault: Fault) -> bool:
            asked.append(fault.kind)
            return fault.kind == "cut"

    asked: list[str] = []
    kill, halt, cut = (Fault(0.0, kind, "s3", 0.0) for kind in ("kill", "halt", "cut"))
    nothing: Any = None
    await Idle(nothing, nothing, nothing).do_all([kill], [halt, cut, cut])
    assert asked == ["kill", "halt", "cut"]


@pytest.mark.parametrize(("stream", "subject"), [("JOBS", "jobs.a"), ("EVENTS", "events.a")])
async def test_a_full_stream_refuses_loses_nothing_and_has_room_again(
    nats_server: RunningNats, stream: str, subject: str
) -> None:
    client = await connect(nats_server.url, name="chaos")
    await ensure_streams(client, StreamLimits())
    await client.jetstream().purge_stream(stream)
    adapter = JetStream(client)
    for _ in range(3):
        await adapter.publish_bytes(subject, b"before")
    config = await fill(client, stream)
    assert config is not None
    assert await fill(client, stream) is None  # else the limit itself would be restored
    with pytest.raises(QueueFull):
        await adapter.publish_bytes(subject, b"meanwhile")
    await restore(client, config)
    await adapter.publish_bytes(subject, b"after")
    info = await client.jetstream().stream_info(stream)
    assert info.state.messages == 4
    assert info.config.discard == config.discard
    await client.close()


async def test_a_proxy_forwards_cuts_refuses_and_swallows() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with proxy_to(server.sockets[0].getsockname()[1]) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.listening)
        writer.write(b"one")
        assert await reader.readexactly(3) == b"one"
        proxy.swallowing = True
        writer.write(b"two")
        waiting = asyncio.ensure_future(reader.readexactly(3))
        done, _ = await asyncio.wait({waiting}, timeout=0.2)
        assert not done
        proxy.swallowing = False
        assert await waiting == b"two"
        assert proxy.cut() == 1
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
        proxy.refuse()
        reader, refused = await asyncio.open_connection("127.0.0.1", proxy.listening)
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
        for end in (writer, refused):
            end.close()
    server.close()
    assert set(LINES) < set(PARTS)
