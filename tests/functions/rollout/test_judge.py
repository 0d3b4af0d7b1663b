"""When a candidate waits, goes on and goes back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from functions._kit.rollout.evidence import Evidence, Latencies
from functions._kit.rollout.judge import judge
from functions._kit.rollout.state import Candidate, Plan, Stage, Target

BEGAN = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
LIMIT = 0.25


def candidate(stage: Stage = "shadow", **plan: Any) -> Candidate:
    return Candidate(
        target=Target(model="m", version="2"),
        plan=Plan(**plan),
        stage=stage,
        rollout_id="r",
        since=BEGAN,
    )


def latencies(*values: float) -> Latencies:
    found = Latencies()
    for value in values:
        found.add(value)
    return found


def verdict(
    evidence: Evidence, *, seconds: float = 3600, stage: Stage = "canary", **plan: Any
) -> tuple[str, str]:
    found = judge(
        candidate(stage, **plan),
        evidence,
        max_difference=LIMIT,
        at=BEGAN + timedelta(seconds=seconds),
    )
    return found.what, found.why


def test_a_candidate_waits_for_its_requests_and_its_time() -> None:
    assert verdict(Evidence(requests=99)) == ("wait", "1 requests to go")
    assert verdict(Evidence(requests=100), seconds=29)[0] == "wait"
    assert verdict(Evidence(requests=100), seconds=30)[0] == "advance"


@pytest.mark.parametrize(
    ("requests", "errors", "what"),
    [
        (2, 2, "wait"),
        (3, 3, "roll_back"),
        (19, 2, "wait"),
        (20, 1, "roll_back"),
        (100, 1, "advance"),
    ],
)
def test_errors_beyond_their_rate_end_it_as_soon_as_they_say_something(
    requests: int, errors: int, what: str
) -> None:
    found = verdict(Evidence(requests=requests, errors=errors, last_error="it broke"))
    assert found[0] == what
    if what == "roll_back":
        assert f"{errors} of {requests} requests failed" in found[1]
        assert "it broke" in found[1]


def test_one_failure_of_three_is_within_a_generous_limit() -> None:
    assert verdict(Evidence(requests=10, errors=3), max_error_rate=0.3)[0] == "wait"


@pytest.mark.parametrize(
    ("compared", "mean", "what"),
    [(19, 0.9, "wait"), (20, 0.26, "roll_back"), (20, 0.25, "wait"), (100, 0.24, "advance")],
)
def test_answers_that_differ_too_much_end_it(compared: int, mean: float, what: str) -> None:
    evidence = Evidence(requests=compared, compared=compared, difference=mean * compared)
    assert verdict(evidence)[0] == what


def test_a_plan_may_set_another_limit_of_difference() -> None:
    evidence = Evidence(requests=50, compared=50, difference=50 * 0.1)
    assert verdict(evidence, max_difference=0.05)[0] == "roll_back"
    assert "limit 0.05" in verdict(evidence, max_difference=0.05)[1]


def test_latencies_are_judged_at_the_end_and_at_once_where_they_are_far_beyond() -> None:
    slow = Evidence(requests=50, candidate=latencies(*[0.2] * 50), active=latencies(*[0.1] * 50))
    assert verdict(slow, requests=100)[0] == "wait"
    what, why = verdict(slow, requests=50)
    assert what == "roll_back"
    assert "200 ms against" in why or "2.0" in why
    slow.candidate = latencies(*[0.4] * 50)
    assert verdict(slow, requests=100)[0] == "roll_back"


def test_few_latencies_say_nothing() -> None:
    slow = Evidence(requests=39, candidate=latencies(*[9.0] * 39), active=latencies(*[0.1] * 99))
    assert verdict(slow, requests=39)[0] == "advance"


def test_the_ninety_fifth_percentile_counts_not_the_rare_slow_answer() -> None:
    evidence = Evidence(
        requests=100,
        candidate=latencies(*[0.1] * 96, *[5.0] * 4),
        active=latencies(*[0.1] * 100),
    )
    assert verdict(evidence)[0] == "advance"


def test_a_shadow_waits_for_answers_that_were_compared() -> None:
    unlike = Evidence(requests=100, compared=99)
    assert verdict(unlike, stage="shadow") == ("wait", "1 requests to go")
    unlike.compared = 100
    assert verdict(unlike, stage="shadow")[0] == "advance"


def test_a_short_plan_is_judged_by_the_little_that_it_asked_for() -> None:
    failing = Evidence(requests=2, errors=2, last_error="it broke")
    assert verdict(failing, requests=2)[0] == "roll_back"
    unlike = Evidence(requests=5, compared=5, difference=5)
    assert verdict(unlike, stage="shadow", requests=5)[0] == "roll_back"


def test_a_stage_without_requests_ends_after_a_week() -> None:
    week_s = 7 * 24 * 3600
    assert verdict(Evidence(requests=1), seconds=week_s)[0] == "wait"
    what, why = verdict(Evidence(requests=1), seconds=week_s + 31)
    assert what == "roll_back"
    assert "it saw 1 of 100 requests in 168 hours" in why
    assert verdict(Evidence(requests=1), seconds=week_s + 31, hold_s=3600)[0] == "wait"
