"""What the functions of models share: parameters, and the answer of every change."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from litestar.di import Provide
from litestar.params import QueryParameter

from functions._kit.http import Port
from functions._kit.messages import Answer
from functions._kit.ports import Inference, KeyValue, ModelServer, Stream
from functions._kit.rollout.changes import Rollouts
from functions._kit.rollout.state import Candidate, Outcome, Serving, Target

CapabilityName: TypeAlias = Annotated[str, QueryParameter(min_length=1, max_length=200)]
ModelName: TypeAlias = Annotated[str, QueryParameter(min_length=1, max_length=200)]
VersionNumber: TypeAlias = Annotated[
    str, QueryParameter(pattern=r"^[1-9]\d{0,17}$", description="A whole number from 1.")
]


def rollouts(
    inference: Port[Inference],
    model_server: Port[ModelServer],
    values: Port[KeyValue],
    stream: Port[Stream],
) -> Rollouts:
    """The dependency `rollouts` of handlers that change what serves: see `ROLLOUTS`."""
    return Rollouts(values, inference, model_server, stream)


ROLLOUTS = {"rollouts": Provide(rollouts, sync_to_thread=False)}
"""For `dependencies` of a handler: gives it `rollouts: Port[Rollouts]`."""


class Changed(Answer, frozen=True, kw_only=True):
    """What serves a capability after the change."""

    capability: str
    active: Target | None
    previous: Target | None
    candidate: Candidate | None
    outcome: Outcome | None


def changed(capability: str, serving: Serving) -> Changed:
    """The answer that tells of it."""
    return Changed(
        capability=capability,
        active=serving.active,
        previous=serving.previous,
        candidate=serving.candidate,
        outcome=serving.outcome,
    )
