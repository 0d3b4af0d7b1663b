"""A run as one line for people, and as one line of JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import msgspec
from chaos.evidence import Told
from chaos.faults import Done
from chaos.ledger import Ledger, Processes
from chaos.verdict import VIOLATIONS

LEADER_DEAD_S = 15.0
"""After a leader's death, in which the longest gap between two 202s is looked for."""
HELD_S = 3.0
"""A worker tells every second what it works at: a task that was told of earlier was not in hand."""
FEWEST = 2 / 3
"""Share of the planned faults that must have been real: a run of less has proved too little."""
KILLS = {"kill", "kill the leader", "kill two servers", "kill a child"}


class Timings(msgspec.Struct, kw_only=True):
    """What faults cost."""

    publish_gap_s: list[float] = []
    """For each death of a leader: the longest time without a 202 that begins or lies in it."""
    resumed_s: list[float] = []
    """For each job that was in a killed worker's hands: until it began again."""


def timings(ledger: Ledger, done: Sequence[Done], told: Sequence[Told]) -> Timings:
    """From moments alone."""
    deaths = [fault.at for fault in done if fault.real and fault.kind == "kill the leader"]
    workers = [
        fault.at
        for fault in done
        if fault.real and fault.kind == "kill" and fault.part.startswith("worker")
    ]
    return Timings(
        publish_gap_s=[round(longest_gap(ledger.accepted_at, at), 2) for at in deaths],
        resumed_s=[round(s, 2) for at in workers for s in resumed(told, at)],
    )


def longest_gap(accepted_at: Sequence[float], death: float) -> float:
    """The longest time without a 202 that overlaps the seconds after `death`."""
    moments = sorted(accepted_at)
    return max(
        (
            after - max(before, death)
            for before, after in pairwise(moments)
            if after > death and before < death + LEADER_DEAD_S
        ),
        default=0.0,
    )


def resumed(told: Sequence[Told], death: float) -> list[float]:
    """For each task that was in work at `death` and was begun again: how long that took."""
    by_task: dict[str, list[Told]] = {}
    for event in told:
        by_task.setdefault(event.task_id, []).append(event)
    found = []
    for events in by_task.values():
        before = [event for event in events if event.at <= death]
        if not before or before[-1].status != "processing" or death - before[-1].at > HELD_S:
            continue
        again = [
            event
            for event in events
            if event.at > death
            and event.status == "processing"
            and event.attempts > before[-1].attempts
        ]
        if again:
            found.append(again[0].at - death)
    return found


def line(ledger: Ledger, done: Sequence[Done], counts: dict[str, int]) -> str:
    """The one line."""
    tasks = len(ledger.tasks)
    frames = sum(frame.accepted for frame in ledger.frames.values())
    real = [fault for fault in done if fault.real]
    deaths = sum(fault.kind in KILLS for fault in real)
    kinds = len({fault.kind for fault in real})
    words = " ".join(f"{name} {counts[name]}" for name in VIOLATIONS)
    return (
        f"accepted {tasks + frames} ({tasks} tasks, {frames} frames) "
        f"faults {len(real)} ({deaths} deaths, {kinds} kinds) {words}"
    )


def too_few(done: Sequence[Done], planned: int) -> str:
    """A sentence where too little of the plan was broken for the run to prove anything, or ""."""
    real = sum(fault.real for fault in done)
    if real >= FEWEST * planned:
        return ""
    return f"{real} of {planned} faults found something to break: too few to prove anything"


def row(
    ledger: Ledger,
    done: Sequence[Done],
    counts: dict[str, int],
    processes: Processes,
    times: Timings,
    began: float,
    planned: int,
) -> dict[str, Any]:
    """All figures of a run."""
    return {
        "row": "chaos",
        "accepted": len(ledger.accepted_at),
        "tasks": len(ledger.tasks),
        "kinds_of_tasks": dict(Counter(task.kind for task in ledger.tasks.values())),
        "frames": sum(frame.accepted for frame in ledger.frames.values()),
        "unsure_frames": sum(not frame.accepted for frame in ledger.frames.values()),
        "unsure_tasks": ledger.unsure_tasks,
        "conversions": ledger.conversions,
        "webhooks": len(ledger.heard),
        "webhooks_repeated": sum(count - 1 for count in ledger.heard.values()),
        "refusals": ledger.refusals,
        **counts,
        "faults_planned": planned,
        "faults": sum(fault.real for fault in done),
        "kinds_of_faults": dict(Counter(fault.kind for fault in done if fault.real)),
        "fault_list": [
            {
                "kind": fault.kind,
                "target": fault.target,
                "part": fault.part,
                "at_s": round(fault.at - began, 1),
                "seconds": fault.seconds,
                "real": fault.real,
                "note": fault.note,
            }
            for fault in done
        ],
        "longest_publish_gap_s": max(times.publish_gap_s, default=None),
        "publish_gaps_s": times.publish_gap_s,
        "longest_resumed_s": max(times.resumed_s, default=None),
        "resumed_s": times.resumed_s,
        "before": msgspec.to_builtins(processes.before),
        "after": msgspec.to_builtins(processes.after),
    }
