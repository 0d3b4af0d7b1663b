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
"""Requests from which on a share or a mean says something before the stage's end."""
ENOUGH_LATENCIES = 40
"""Of each side, from which on a 95th percentile says something: two lie above it."""
LONGEST_STAGE_S = 7 * 24 * 3600.0
"""A stage that sees too little for so long, beyond its hold, ends: it would block the next one."""
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
    seen = evidence.compared if candidate.stage == "shadow" else evidence.requests
    missing = plan.requests - seen
    at_end = missing <= 0
    age_s = (at - candidate.since).total_seconds()
    for reason in (
        _errors(evidence, plan.max_error_rate, at_end=at_end),
        _difference(evidence, limit, at_end=at_end),
        _latency(evidence, plan.max_latency_ratio, at_end=at_end),
        f"it saw {seen} of {plan.requests} requests in {age_s / 3600:.0f} hours"
        if missing > 0 and age_s > LONGEST_STAGE_S + plan.hold_s
        else "",
    ):
        if reason:
            return Verdict("roll_back", f"in its {candidate.stage} stage {reason}")
    if missing > 0:
        return Verdict("wait", f"{missing} requests to go")
    if age_s < plan.hold_s:
        return Verdict("wait", f"{plan.hold_s - age_s:.0f} s to go")
    return Verdict("advance", f"{seen} requests, {evidence.errors} errors")


def _errors(evidence: Evidence, limit: float, *, at_end: bool) -> str:
    enough = at_end or evidence.errors >= ENOUGH_ERRORS or evidence.requests >= ENOUGH
    if not enough or evidence.error_rate <= limit:
        return ""
    return (
        f"{evidence.errors} of {evidence.requests} requests failed (limit {limit:.2%}),"
        f" the last one with: {evidence.last_error}"
    )


def _difference(evidence: Evidence, limit: float, *, at_end: bool) -> str:
    enough = at_end or evidence.compared >= ENOUGH
    if not enough or evidence.mean_difference <= limit:
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
