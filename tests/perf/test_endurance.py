"""What `just bench endurance` makes of a run."""

from __future__ import annotations

import os
from typing import Any

import psutil
import pytest
from benches.endurance import judge
from mixed.generator import Report
from mixed.memory import TOGETHER, Memory
from mixed.probe import Report as Asked
from msgspec.structs import replace

SENT = Report(
    done={"photo": 3},
    refused={"token: too_many_requests": 5},
    errors={},
    spread_ms={},
    accepted=4,
    states={"completed": 3, "cancelled": 1},
    cpu_s=1.0,
)
ASKED = Asked(
    answers=[(at / 20, 0.01 if at >= 1200 else 2.0) for at in range(6000)],
    sent_late=[],
    errors={},
    cpu_s=1.0,
)


def a_memory(**slopes: float) -> Memory:
    """Parts that grow by so many percent a minute after a wild first minute."""
    memory = Memory(os.getpid())
    for part, slope in slopes.items():
        name = TOGETHER if part == "together" else part
        memory.samples[name] = [
            (at, 10.0 if at < 60 else 100 + slope * (at - 180) / 60) for at in range(0, 300, 5)
        ]
    return memory


def missed(sent: Report = SENT, asked: Asked = ASKED, **slopes: float) -> list[str]:
    memory = a_memory(together=0.2, nats=0.9, **slopes)
    return [limit.what for limit in judge(sent, asked, memory, 60.0) if not limit.met]


def test_a_good_run_meets_all_whatever_was_put_off_or_slow_to_begin_with() -> None:
    assert missed() == []


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"errors": {"upload: 500": 1}}, "errors apart from 429"),
        ({"accepted": 5}, "accepted tasks neither completed nor cancelled"),
        ({"states": {"completed": 3, "failed": 1}}, "accepted tasks neither completed nor"),
    ],
)
def test_an_error_or_a_lost_task_is_missed(change: dict[str, Any], what: str) -> None:
    (found,) = missed(replace(SENT, **change))
    assert found.startswith(what)


def test_one_slow_minute_is_missed_though_all_together_are_well() -> None:
    slow = [(at, 0.06 if 120 <= at < 121 else s) for at, s in ASKED.answers]
    assert missed(asked=replace(ASKED, answers=slow)) == ["status query, p99 of the worst minute"]
    assert missed(asked=replace(ASKED, errors={"status: 500": 1})) == ["errors apart from 429"]
    assert "status query, p99 of all" in missed(asked=replace(ASKED, answers=[]))


def test_a_part_that_grows_is_missed_by_its_name() -> None:
    assert missed(worker=1.1) == ["memory of worker"]


def test_memory_is_that_of_all_processes_below_the_root() -> None:
    memory = Memory(os.getpid())
    memory.look()
    ((_, held),) = memory.samples[TOGETHER]
    assert held == pytest.approx(sum(found[0][1] for found in memory.samples.values()) / 2)
    assert held > 0.2 * psutil.Process().memory_info().rss / (1 << 20)
    assert memory.files[TOGETHER][0] >= 3
    assert sum(memory.cpu_seconds().values()) > 0
