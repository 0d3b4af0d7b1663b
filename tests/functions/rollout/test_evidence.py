"""Evidence: counted by each process, added up by the judge."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from functions._kit.fakes import FakeKeyValue
from functions._kit.messages import now
from functions._kit.rollout.evidence import (
    ROLLOUTS,
    Evidence,
    Latencies,
    collected,
    evidence_key,
    summary,
)
from functions._kit.rollout.state import Candidate, Plan, Target

CANDIDATE = Candidate(
    target=Target(model="m", version="2"), plan=Plan(), stage="shadow", rollout_id="r", since=now()
)


@pytest.mark.parametrize("share", [0.5, 0.95, 0.99])
def test_quantiles_are_within_a_step_of_the_exact_ones(share: float) -> None:
    values = np.random.default_rng(3).lognormal(-3, 1, 2000)
    counted = Latencies()
    for value in values:
        counted.add(float(value))
    exact = float(np.quantile(values, share, method="inverted_cdf"))
    assert exact <= counted.quantile_s(share) <= exact * 2 ** (1 / 8)


def test_the_shortest_latency_and_none_at_all_have_a_quantile() -> None:
    counted = Latencies()
    assert counted.quantile_s(0.95) == 0
    counted.add(0.0)
    assert counted.quantile_s(0.95) == pytest.approx(1e-4)


async def test_what_processes_saw_is_added_up_by_rollout_and_stage() -> None:
    values = FakeKeyValue()
    first, second, other = Evidence(), Evidence(), Evidence()
    for _ in range(3):
        first.done()
        first.candidate.add(0.1)
        first.differs(0.2)
        first.active.add(0.1)
    second.failed("no memory")
    second.done()
    second.candidate.add(0.4)
    second.differs(0.5)
    second.skipped = 7
    other.failed("of another stage")
    for key, evidence in {
        evidence_key(CANDIDATE, "a"): first,
        evidence_key(CANDIDATE, "b"): second,
        evidence_key(msgspec.structs.replace(CANDIDATE, stage="canary"), "a"): other,
    }.items():
        await values.put(ROLLOUTS, key, msgspec.json.encode(evidence))
    await values.put(ROLLOUTS, evidence_key(CANDIDATE, "c"), b"garbage")
    total = collected(values, CANDIDATE)
    assert (total.requests, total.errors, total.last_error) == (5, 1, "no memory")
    assert (total.compared, total.largest_difference, total.skipped) == (4, 0.5, 7)
    assert total.mean_difference == pytest.approx(1.1 / 4)
    assert (total.candidate.total, total.active.total) == (4, 3)
    assert summary(total).error_rate == 0.2


def test_evidence_of_nothing_divides_by_nothing() -> None:
    nothing = Evidence()
    assert (nothing.error_rate, nothing.mean_difference, nothing.latency_ratio) == (0, 0, None)
    assert summary(nothing).latency_ratio is None
