"""The load test's plan and its summary; what it sends to a system is `just load` itself."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from loading import plan as PLAN  # noqa: N812 - many lines speak of it
from loading import summary as SUMMARY  # noqa: N812


@pytest.mark.parametrize("name", ["small", "medium", "large"])
def test_every_photo_of_a_size_is_sent_once_and_every_priority_as_often(name: str) -> None:
    size = PLAN.SIZES[name]
    orders = PLAN.plan(size, scale=2, seed=1)
    assert [order.number for order in orders] == list(range(size.tasks))
    assert Counter(order.kind for order in orders) == size.photos
    assert set(size.photos) == {"1080p", "4K", "24 MP"}
    counts = Counter(order.priority for order in orders)
    assert max(counts.values()) - min(counts[p] for p in PLAN.PRIORITIES) <= 1
    assert {order.band for order in orders} == {"low", "normal", "high"}


def test_a_seed_draws_the_same_order_each_time_and_another_one_another() -> None:
    size = PLAN.SIZES["medium"]
    first, again, other = (PLAN.plan(size, scale=2, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert [order.kind for order in first] != [order.kind for order in other]


@pytest.mark.parametrize(
    ("cores", "gpus", "name"), [(2, 0, "small"), (7, 0, "small"), (8, 0, "medium"), (4, 1, "large")]
)
def test_the_machine_chooses_the_size(cores: int, gpus: int, name: str) -> None:
    assert PLAN.size_for(cores, gpus) == name


def test_bands_are_those_of_the_queues() -> None:
    assert [PLAN.band(priority) for priority in (1, 3, 4, 7, 8, 10)] == [
        "low", "low", "normal", "normal", "high", "high",
    ]  # fmt: skip
    for priority in (0, 11):
        with pytest.raises(ValueError, match="must be 1 to 10"):
            PLAN.band(priority)


@pytest.mark.parametrize(
    ("count", "percent", "expected"),
    [(1, 50, 1), (1, 99, 1), (2, 50, 1), (4, 50, 2), (20, 95, 19), (100, 99, 99), (101, 99, 100)],
)
def test_a_percentile_is_a_value_that_was_measured(count: int, percent: int, expected: int) -> None:
    assert SUMMARY.percentile(range(1, count + 1), percent) == expected


def an_order(kind: str = "1080p", priority: int = 5) -> Any:
    return PLAN.Order(number=0, kind=kind, scale=2, priority=priority)


def done(order: Any, seconds: float | None = 10.0, **facts: Any) -> Any:
    """A task that went well."""
    return SUMMARY.Outcome(
        order=order, task_id="t", status="completed", seconds=seconds, waited_s=1.0,
        **{"found": order.result, "seen": order.result, "model": "m"} | facts,
    )  # fmt: skip


def a_row(record: Any) -> dict[str, Any]:
    sent = {"photos": {"1080p": 2, "4K": 1, "24 MP": 0}, "scale": 2, "clients": 2}
    figures: dict[str, Any] = SUMMARY.summary(record, 60.0)
    return sent | figures | {"faults": SUMMARY.faults(record)}


def test_figures_are_by_request_photo_and_priority() -> None:
    sample = SUMMARY.Sample
    record = SUMMARY.Record(
        samples=[
            *(sample(name="status", seconds=s / 100) for s in range(1, 101)),
            sample(name="process", seconds=0.5),
            sample(name="process", seconds=9.0, end="503 queue_full", refused=True),
            sample(name="upload", seconds=9.0, end="ConnectionError"),
        ],
        outcomes=[
            done(an_order("1080p", 10), 10.0),
            done(an_order("1080p", 1), 30.0),
            done(an_order("4K", 2), 60.0),
            done(an_order("24 MP", 3), seconds=None),  # after its client had given up
        ],
    )
    row = a_row(record)
    assert (row["tasks_per_minute"], row["megapixels_per_s"]) == (4.0, 0.607)
    assert row["requests"]["status"] == {
        "count": 100, "p50_s": 0.5, "p95_s": 0.95, "p99_s": 0.99, "most_s": 1.0,
    }  # fmt: skip
    assert row["requests"]["process"]["most_s"] == 0.5, "what was refused was not served"
    assert row["requests"]["upload"] == {"count": 0}
    assert row["refused"] == {"process: 503 queue_full": 1}
    assert row["errors"] == {"upload: ConnectionError": 1}
    assert row["whole_by_photo"]["1080p"]["most_s"] == 30.0
    assert row["whole_by_photo"]["24 MP"] == {"count": 0}
    assert row["waited_by_band"]["low"] == {"count": 3} | dict.fromkeys(
        ("p50_s", "p95_s", "p99_s", "most_s"), 1.0
    )
    assert row["whole_by_band"]["high"]["p50_s"] == 10.0
    assert row["whole_by_band"]["low"]["count"] == 2
    assert row["faults"] == []
    assert "every accepted task is completed" in SUMMARY.shown(row)


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        (SUMMARY.Outcome(order=an_order(), task_id="t", status="failed"), "accepted and is failed"),
        (SUMMARY.Outcome(order=an_order(), task_id="t", status="queued"), "accepted and is queued"),
        (SUMMARY.Outcome(order=an_order(), status="not accepted"), "was never accepted"),
        (done(an_order(), found=(1920, 1080)), "says (1920, 1080), not (3840, 2160)"),
        (done(an_order(), seen=(3840, 2159)), "holds (3840, 2159), not (3840, 2160)"),
    ],
)
def test_what_is_not_as_promised_is_said(outcome: Any, said: str) -> None:
    row = a_row(SUMMARY.Record(outcomes=[outcome]))
    assert len(row["faults"]) == 1
    assert said in row["faults"][0]
    assert f"NOT AS PROMISED: {row['faults'][0]}" in SUMMARY.shown(row)
