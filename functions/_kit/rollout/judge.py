"""Decides by the evidence whether a candidate waits, goes on, or goes back."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from functions._kit.rollout.evidence import Evidence
from functions._kit.rollout.state import Candidate

ENOUGH_ERRORS = 3
"""Errors that are judged however few requests there were."""
ENOUGH = 20
"""Requests from which on a share or a mean says something."""
ENOUGH_LATENCIES = 40
"""Of each side, from which on a 95th percentile says something: two lie above it."""
FAR_BEYOND = 2.0
"""Latencies so many times beyond the limit are judged at once, others at the stage's end: a few
slow answers of a busy machine are no verdict."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a candidate, and why."""

    what: Literal["wait", "advance", "roll_back"]
    why: str


def judge(
    candidate: Candidate, evidence: Evidence, *, max_difference: float, at: datetime
) -> Verdict:
    """The verdict at the moment `at`; `max_difference` is the capability's own where none is set.

    Whatever is beyond its limit ends the trial, however much else is well.
    """
    plan = candidate.plan
    limit = max_difference if plan.max_difference is None else plan.max_difference
    for reason in (
        _errors(evidence, plan.max_error_rate),
        _difference(evidence, limit),
        _latency(evidence, plan.max_latency_ratio, at_end=evidence.requests >= plan.requests),
    ):
        if reason:
            return Verdict("roll_back", f"in its {candidate.stage} stage {reason}")
    missing = plan.requests - evidence.requests
    if missing > 0:
        return Verdict("wait", f"{missing} requests to go")
    held_s = (at - candidate.since).total_seconds()
    if held_s < plan.hold_s:
        return Verdict("wait", f"{plan.hold_s - held_s:.0f} s to go")
    return Verdict("advance", f"{evidence.requests} requests, {evidence.errors} errors")


def _errors(evidence: Evidence, limit: float) -> str:
    enough = evidence.errors >= ENOUGH_ERRORS or evidence.requests >= ENOUGH
    if not enough or evidence.error_rate <= limit:
        return ""
    return (
        f"{evidence.errors} of {evidence.requests} requests failed (limit {limit:.2%}),"
        f" the last one with: {evidence.last_error}"
    )


def _difference(evidence: Evidence, limit: float) -> str:
    if evidence.compared < ENOUGH or evidence.mean_difference <= limit:
        return ""
    return (
        f"its answers differed by {evidence.mean_difference:.4g} on average over"
        f" {evidence.compared} requests (limit {limit:g})"
    )


def _latency(evidence: Evidence, limit: float, *, at_end: bool) -> str:
    ratio = evidence.latency_ratio
    few = min(evidence.candidate.total, evidence.active.total) < ENOUGH_LATENCIES
    if few or ratio is None or ratio <= (limit if at_end else FAR_BEYOND * limit):
        return ""
    theirs, ours = (part.quantile_s(0.95) for part in (evidence.candidate, evidence.active))
    return (
        f"its 95th percentile was {1000 * theirs:.0f} ms against {1000 * ours:.0f} ms,"
        f" {ratio:.2f} times as long (limit {limit:g})"
    )
