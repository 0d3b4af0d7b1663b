"""What serves each capability, and what is on its way to: values in a key-value bucket."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from datetime import datetime
from functools import lru_cache
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from functions._kit.messages import NO_JSON, Message
from functions._kit.ports import KeyValue

log = logging.getLogger(__name__)

CAPABILITIES = "capabilities"
"""Bucket of `Serving`, by capability; one that was never touched is not there."""
MODELS = "models"
"""Bucket of `Checked`, by model and version."""

Share = Annotated[float, Meta(ge=0, le=1)]
Stage = Literal["shadow", "canary"]


class Target(Message, frozen=True, kw_only=True):
    """One version of a model."""

    model: str
    version: str

    def __str__(self) -> str:
        return f"{self.model} version {self.version}"


class Plan(Message, frozen=True, kw_only=True):
    """How a candidate is tried on real requests, and what ends the trial.

    It is shadowed until `requests` of its answers were compared and `hold_s` seconds are over,
    then it answers the canary share as long, then everything. A share of 0 leaves a stage out.
    """

    shadow: Share = 0.2
    """Share of the requests that the candidate gets, too; its answers go to nobody."""
    canary: Share = 0.1
    """Share of the jobs that it answers."""
    requests: Annotated[int, Meta(ge=1, le=1_000_000)] = 100
    hold_s: Annotated[float, Meta(ge=0, le=7 * 24 * 3600)] = 30.0
    max_error_rate: Share = 0.01
    max_latency_ratio: Annotated[float, Meta(gt=0)] = 1.5
    """Of the 95th percentiles, the candidate's to the active version's."""
    max_difference: Annotated[float, Meta(ge=0)] | None = None
    """Mean difference of its answers, in the capability's own measure; its default unless set."""


class Candidate(Message, frozen=True, kw_only=True):
    """A version on its way, and how far it has come."""

    target: Target
    plan: Plan
    stage: Stage
    rollout_id: str
    since: datetime
    """When the stage began."""


class Outcome(Message, frozen=True, kw_only=True):
    """How the last change of a capability ended."""

    what: Literal["switched", "promoted", "rolled_back", "abandoned"]
    target: Target
    why: str
    at: datetime


class Serving(Message, frozen=True, kw_only=True):
    """What serves a capability. Without `active`, the capability's own default does."""

    active: Target | None = None
    previous: Target | None = None
    """What `rollback` goes back to."""
    candidate: Candidate | None = None
    outcome: Outcome | None = None


class Checked(Message, frozen=True, kw_only=True):
    """The last check of a version."""

    sha256: str
    """Of the version's content, which never changes."""
    at: datetime
    problems: tuple[str, ...] = ()
    golden: bool = False
    """Whether stored answers were there to compare with."""
    latency_s: float | None = None
    """Median of the golden or probe requests."""
    active_latency_s: float | None = None
    """The active version's, turn about with it."""

    @property
    def passed(self) -> bool:
        """Whether nothing was found wrong."""
        return not self.problems


def serving_of(values: KeyValue, capability: str) -> Serving:
    """What serves the capability, as this process sees it: a moment old at most."""
    value = values.seen(CAPABILITIES).get(capability)
    return Serving() if value is None else decode_serving(value)


def all_serving(values: KeyValue) -> Iterator[tuple[str, Serving]]:
    """Every capability that was ever touched, by name."""
    seen = values.seen(CAPABILITIES)
    for capability in sorted(seen):
        if (value := seen.get(capability)) is not None:
            yield capability, decode_serving(value)


@lru_cache(maxsize=256)
def decode_serving(value: bytes) -> Serving:
    """The value of the bucket. One that cannot be read leaves the capability its default."""
    try:
        return msgspec.json.decode(value, type=Serving)
    except NO_JSON as error:
        log.warning("what serves a capability cannot be read: %s", error)
        return Serving()


def in_canary(candidate: Candidate, unit: str) -> bool:
    """Whether the job `unit` is among the candidate's share; the same at every attempt."""
    if candidate.stage != "canary":
        return False
    digest = hashlib.sha256(f"{candidate.rollout_id}:{unit}".encode()).digest()
    return int.from_bytes(digest[:8]) < candidate.plan.canary * 2**64


def checked_key(target: Target) -> str:
    """The key of its `Checked` in the bucket."""
    return f"{target.model}/{target.version}"


async def checked(values: KeyValue, target: Target) -> Checked | None:
    """The last check of the version, as the bucket holds it now."""
    entry = await values.get(MODELS, checked_key(target))
    return None if entry is None else _decode_check(entry.value, target)


def last_check(values: KeyValue, target: Target) -> Checked | None:
    """The same as this process sees it: a moment old at most."""
    value = values.seen(MODELS).get(checked_key(target))
    return None if value is None else _decode_check(value, target)


def _decode_check(value: bytes, target: Target) -> Checked | None:
    try:
        return msgspec.json.decode(value, type=Checked)
    except NO_JSON as error:
        log.warning("the check of %s cannot be read: %s", target, error)
        return None
