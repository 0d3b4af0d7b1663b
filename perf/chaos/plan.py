"""What is sent and what is broken, and when: all of it drawn from the seed alone."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

GATEWAYS = ("gateway-1", "gateway-2")
WORKERS = ("worker-1", "worker-2")
TRITONS = ("triton-1", "triton-2")
QUEUES = ("nats-1", "nats-2", "nats-3")
PARTS = (*GATEWAYS, *WORKERS, *TRITONS, *QUEUES, "s3", "postgres")
LINES = (*TRITONS, *QUEUES, "s3", "postgres")
"""Parts that the others reach through a proxy."""
LEADERS = ("JOBS", "FRAMES", "EVENTS")
"""Streams whose leader is looked up at the moment of the fault."""
RECEIVER = "receiver"
QUEUE = "the queue"
BUSY = "worker-1 and worker-2"

LEAD_S = 3.0
"""Before the first fault, so that there is something to break."""
RECOVERY_S = 6.0
"""A part is left alone for so long after a fault of its own."""
LONG_RUN_S = 300.0
LONG_STOPS_S = 480.0
"""From runs this long, one part of each of `LONG_STOPS` is halted for `LONG_STOP_S`."""
LONG_STOPS = (WORKERS, QUEUES, ("postgres",))
LONG_STOP_S = (45.0, 60.0)
LONG_STOPS_BY = 0.8
"""Share of the faults among which they come, so that they end within the run."""
LONGEST_STOP_S = {True: 60.0, False: 20.0}
"""SIGSTOP at most, in long runs and in short ones."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault: what it may hit, how often beside the others, and for how long."""

    targets: tuple[str, ...]
    weight: float
    mean_s: float = 0.0
    least_s: float = 0.0
    long_runs: bool = False
    """Whether it comes in runs of `LONG_RUN_S` and more alone."""


KINDS = {
    "kill": Kind(PARTS, 5),
    "kill the leader": Kind(LEADERS, 3),
    "kill two servers": Kind((QUEUE,), 0.5, long_runs=True),
    "kill a child": Kind((*GATEWAYS, *WORKERS, *TRITONS), 1),
    "halt": Kind(PARTS, 3, mean_s=8, least_s=2),
    "halt the leader": Kind(LEADERS, 1, mean_s=6, least_s=3),
    "restart": Kind(PARTS, 3),
    "step down": Kind(LEADERS, 1),
    "cut": Kind(LINES, 3),
    "refuse connections": Kind(LINES, 2, mean_s=4, least_s=1),
    "swallow bytes": Kind(LINES, 2, mean_s=6, least_s=2),
    "triton refuses": Kind(TRITONS, 1.5, mean_s=4, least_s=1),
    "triton hangs": Kind(TRITONS, 1.5, mean_s=5, least_s=2),
    "triton out of memory": Kind(TRITONS, 1.5, mean_s=5, least_s=2),
    "fill a queue": Kind((BUSY,), 1, mean_s=6, least_s=5),
    "fill a stream": Kind(LEADERS, 1, mean_s=5, least_s=3),
    "receiver refuses": Kind((RECEIVER,), 1, mean_s=3, least_s=2),
    "receiver away": Kind((RECEIVER,), 1, mean_s=3, least_s=2),
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: `seconds` is how long it lasts, where it ends by our hand."""

    at_s: float
    kind: str
    target: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Input:
    """One thing that a client sends. `variant` says which picture, or which recording."""

    number: int
    at_s: float
    kind: str
    variant: int
    priority: int = 5
    callback: bool = False
    followed: bool = False
    """Whether its events are followed while it runs."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Inputs a second."""

    frame: float = 1.9
    photo: float = 0.5
    speech: float = 0.15
    conversion: float = 0.1


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole run."""

    seed: int
    seconds: float
    faults: Sequence[Fault]
    spares: Sequence[Fault]
    """What is done at once in place of faults that found nothing to break."""
    inputs: Sequence[Input]


def plan(seed: int, seconds: float, faults: int, rates: Rates | None = None) -> Plan:
    """The same for the same arguments, whatever the machine does with it."""
    return Plan(
        seed=seed,
        seconds=seconds,
        faults=_faults(random.Random(f"{seed}:faults"), seconds, faults),  # noqa: S311
        spares=_faults(random.Random(f"{seed}:spares"), seconds, math.ceil(faults / 2)),  # noqa: S311
        inputs=inputs_of(random.Random(f"{seed}:inputs"), seconds, rates or Rates()),  # noqa: S311
    )


def _faults(draw: random.Random, seconds: float, count: int) -> list[Fault]:
    """Each kind once as far as `count` reaches, the others by weight; no part twice at once."""
    names = kinds_of(seconds)
    kinds = draw.sample(names, min(count, len(names)))
    weights = [KINDS[name].weight for name in names]
    stops: Sequence[tuple[str, ...]] = (
        LONG_STOPS if seconds >= LONG_STOPS_S and count >= len(names) + len(LONG_STOPS) else ()
    )
    kinds += draw.choices(names, weights, k=count - len(kinds) - len(stops))
    draw.shuffle(kinds)
    wanted = [(name, KINDS[name].targets, _seconds(draw, KINDS[name], seconds)) for name in kinds]
    for parts in stops:
        place = draw.randrange(round(LONG_STOPS_BY * len(wanted)))
        wanted.insert(place, ("halt", parts, draw.uniform(*LONG_STOP_S)))
    found: list[Fault] = []
    busy: dict[str, float] = {}
    span = max(seconds - 2 * LEAD_S, 0.0) / max(count, 1)
    for turn, (name, parts, lasting) in enumerate(wanted):
        at_s = LEAD_S + (turn + draw.random()) * span
        targets = list(parts)
        draw.shuffle(targets)
        target = min(targets, key=lambda one: max(busy.get(part, 0.0) for part in touched(one)))
        for part in touched(target):
            busy[part] = at_s + lasting + RECOVERY_S
        found.append(Fault(round(at_s, 3), name, target, round(min(lasting, seconds - at_s), 3)))
    return found


def kinds_of(seconds: float) -> list[str]:
    """The kinds of faults of a run that long."""
    return [name for name, kind in KINDS.items() if seconds >= LONG_RUN_S or not kind.long_runs]


def _seconds(draw: random.Random, kind: Kind, seconds: float) -> float:
    if not kind.mean_s:
        return 0.0
    longest = LONGEST_STOP_S[seconds >= LONG_RUN_S]
    return min(kind.least_s + draw.expovariate(1 / (kind.mean_s - kind.least_s)), longest)


def touched(target: str) -> tuple[str, ...]:
    """The parts that a target may mean."""
    if target == BUSY:
        return WORKERS
    return QUEUES if target in LEADERS or target == QUEUE or target in QUEUES else (target,)


def inputs_of(draw: random.Random, seconds: float, rates: Rates) -> list[Input]:
    """What is sent in `seconds`, in order of time, each kind at its rate."""
    kinds = [
        (draw.uniform(0, seconds), kind)
        for kind in ("frame", "photo", "speech", "conversion")
        for _ in range(round(getattr(rates, kind) * seconds))
    ]
    return [
        Input(
            number=number,
            at_s=round(at_s, 3),
            kind=kind,
            variant=draw.randrange(4),
            priority=draw.randint(1, 10),
            callback=draw.random() < 0.4,
            followed=draw.random() < 0.2,
        )
        for number, (at_s, kind) in enumerate(sorted(kinds))
    ]
