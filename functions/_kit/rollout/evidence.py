"""What was seen of a candidate: counts that processes keep apart and the judge adds up."""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec

from functions._kit.messages import NO_JSON, Message
from functions._kit.ports import KeyValue
from functions._kit.rollout.state import Candidate

ROLLOUTS = "rollouts"
"""Bucket of `Evidence`, by rollout, stage and process."""
STEPS_PER_DOUBLING = 8
"""Latencies are counted in steps of 9%: fine enough for a limit on their ratio."""
SHORTEST_S = 1e-4


class Latencies(msgspec.Struct, kw_only=True):
    """How long answers took: counts by step, `SHORTEST_S` doubling every eight."""

    counts: dict[int, int] = msgspec.field(default_factory=dict)

    @property
    def total(self) -> int:
        """How many were counted."""
        return sum(self.counts.values())

    def add(self, latency_s: float) -> None:
        """Count one."""
        step = math.ceil(STEPS_PER_DOUBLING * math.log2(max(latency_s, SHORTEST_S) / SHORTEST_S))
        self.counts[step] = self.counts.get(step, 0) + 1

    def merge(self, other: Latencies) -> None:
        """Count all of another's, too."""
        for step, count in other.counts.items():
            self.counts[step] = self.counts.get(step, 0) + count

    def quantile_s(self, share: float) -> float:
        """The upper edge of the step that holds the quantile, in seconds; 0 of none."""
        left = share * self.total
        for step in sorted(self.counts):
            left -= self.counts[step]
            if left <= 0:
                return float(SHORTEST_S * 2 ** (step / STEPS_PER_DOUBLING))
        return 0.0


class Evidence(msgspec.Struct, kw_only=True):
    """What one process has seen of a candidate in one stage, or all have together."""

    requests: int = 0
    """Shadowed requests, or a canary's jobs, that the candidate has done or failed."""
    errors: int = 0
    last_error: str = ""
    compared: int = 0
    difference: float = 0.0
    """Sum over the compared answers."""
    largest_difference: float = 0.0
    skipped: int = 0
    """Requests of the shadow's share that were left out, since enough of them ran."""
    candidate: Latencies = msgspec.field(default_factory=Latencies)
    active: Latencies = msgspec.field(default_factory=Latencies)

    @property
    def error_rate(self) -> float:
        """Errors among the requests."""
        return self.errors / self.requests if self.requests else 0.0

    @property
    def mean_difference(self) -> float:
        """Of the compared answers."""
        return self.difference / self.compared if self.compared else 0.0

    @property
    def latency_ratio(self) -> float | None:
        """Of the 95th percentiles, or None where one is not known."""
        if not self.candidate.total or not self.active.total:
            return None
        return self.candidate.quantile_s(0.95) / self.active.quantile_s(0.95)

    def done(self) -> None:
        """The candidate has done what it was given."""
        self.requests += 1

    def failed(self, reason: str) -> None:
        """The candidate has failed a request."""
        self.requests += 1
        self.errors += 1
        self.last_error = reason[:500]

    def differs(self, by: float) -> None:
        """One answer was compared with the active version's."""
        self.compared += 1
        self.difference += by
        self.largest_difference = max(self.largest_difference, by)


def evidence_key(candidate: Candidate, process_id: str = "") -> str:
    """The key of one process's evidence; the beginning of all keys without a process."""
    return f"{candidate.rollout_id}/{candidate.stage}/{process_id}"


def collected(values: KeyValue, candidate: Candidate) -> Evidence:
    """What all processes have seen in the candidate's stage, as this one sees it."""
    seen = values.seen(ROLLOUTS)
    prefix = evidence_key(candidate)
    return summed(
        value
        for key in sorted(seen)
        if key.startswith(prefix) and (value := seen.get(key)) is not None
    )


def summed(parts: Iterable[bytes]) -> Evidence:
    """All parts added up; what cannot be read is left out."""
    total = Evidence()
    for part in parts:
        try:
            one = msgspec.json.decode(part, type=Evidence)
        except NO_JSON:
            continue
        total.requests += one.requests
        total.errors += one.errors
        total.last_error = one.last_error or total.last_error
        total.compared += one.compared
        total.difference += one.difference
        total.largest_difference = max(total.largest_difference, one.largest_difference)
        total.skipped += one.skipped
        total.candidate.merge(one.candidate)
        total.active.merge(one.active)
    return total


class EvidenceSummary(Message, frozen=True, kw_only=True):
    """Evidence as people read it; times in seconds."""

    requests: int
    errors: int
    error_rate: float
    last_error: str
    compared: int
    mean_difference: float
    largest_difference: float
    skipped: int
    candidate_p50_s: float
    candidate_p95_s: float
    active_p50_s: float
    active_p95_s: float
    latency_ratio: float | None


def summary(of: Evidence) -> EvidenceSummary:
    """The figures that the judge goes by."""
    ratio = of.latency_ratio
    return EvidenceSummary(
        requests=of.requests,
        errors=of.errors,
        error_rate=round(of.error_rate, 4),
        last_error=of.last_error,
        compared=of.compared,
        mean_difference=round(of.mean_difference, 6),
        largest_difference=round(of.largest_difference, 6),
        skipped=of.skipped,
        candidate_p50_s=round(of.candidate.quantile_s(0.5), 5),
        candidate_p95_s=round(of.candidate.quantile_s(0.95), 5),
        active_p50_s=round(of.active.quantile_s(0.5), 5),
        active_p95_s=round(of.active.quantile_s(0.95), 5),
        latency_ratio=None if ratio is None else round(ratio, 3),
    )
