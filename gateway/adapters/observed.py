"""The port `Inference` under observation: candidates are shadowed, timed and told of."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import msgspec
from numpy.typing import NDArray

from functions._kit.capabilities import contract_of
from functions._kit.errors import JobFailed, NereidError, OutOfMemory, Unavailable
from functions._kit.messages import new_id
from functions._kit.ports import Inference, KeyValue, ServedModel
from functions._kit.rollout.evidence import ROLLOUTS, Evidence, evidence_key
from functions._kit.rollout.state import Candidate, Target, all_serving, serving_of
from gateway.adapters.background import end

log = logging.getLogger(__name__)

SHADOWS_AT_ONCE = 2
"""Of one process. Beyond, requests are not shadowed: a slow candidate must not pile them up."""
LEAST_PATIENCE_S, PATIENCE = 30.0, 20.0
"""A candidate may take so many times as long as the active model ever did, and at least so long."""
TELL_S = 0.5
"""Evidence that has grown is told this often."""


class ObservedInference:
    """Answers as the `Inference` it is given, and keeps evidence of every candidate.

    The caller's answer never waits for a shadow, and no error of a shadow reaches it.
    """

    def __init__(self, inference: Inference, values: KeyValue) -> None:
        self._inference = inference
        self._values = values
        self._process_id = new_id()
        self._evidence: dict[str, Evidence] = {}
        self._untold: set[str] = set()
        self._shadows: set[asyncio.Task[None]] = set()

    async def model(self, name: str, version: str | None = None) -> ServedModel:
        """See `Inference.model`."""
        return await self._inference.model(name, version)

    async def model_names(self) -> frozenset[str]:
        """See `Inference.model_names`."""
        return await self._inference.model_names()

    async def healthy(self) -> bool:
        """See `Inference.healthy`."""
        return await self._inference.healthy()

    async def infer(
        self, model: ServedModel, inputs: dict[str, NDArray[Any]], *, priority: int = 2
    ) -> dict[str, NDArray[Any]]:
        """See `Inference.infer`."""
        candidate = self._trial(model)
        if candidate is None:
            return await self._inference.infer(model, inputs, priority=priority)
        is_candidate = _target(model) == candidate.target
        began = time.perf_counter()
        try:
            answer = await self._inference.infer(model, inputs, priority=priority)
        except asyncio.CancelledError:
            waited_s = time.perf_counter() - began
            if is_candidate and waited_s > self._patience_s(candidate):
                self._evidence_of(candidate).failed(f"no answer within {waited_s:.0f} s")
            raise
        latency_s = time.perf_counter() - began
        evidence = self._evidence_of(candidate)
        if is_candidate:
            evidence.candidate.add(latency_s)
            return answer
        evidence.active.add(latency_s)
        if candidate.stage == "shadow" and random.random() < candidate.plan.shadow:  # noqa: S311
            self._shadow(_Shadow(candidate, model, inputs, answer, priority))
        return answer

    def report(self, model: ServedModel, problem: str | None = None) -> None:
        """See `Inference.report`."""
        candidate = self._trial(model)
        if candidate is not None and _target(model) == candidate.target:
            evidence = self._evidence_of(candidate)
            if problem is None:
                evidence.done()
            else:
                evidence.failed(problem)
        self._inference.report(model, problem)

    async def tell(self) -> None:
        """Publish the evidence that has grown. Raises `Unavailable`."""
        for key in sorted(self._untold):
            self._untold.discard(key)
            if (evidence := self._evidence.get(key)) is None:
                continue  # of a stage that ended while its last shadow ran
            try:
                await self._values.put(ROLLOUTS, key, msgspec.json.encode(evidence))
            except Unavailable:
                self._untold.add(key)
                raise
        running = {
            evidence_key(serving.candidate, self._process_id)
            for _, serving in all_serving(self._values)
            if serving.candidate is not None
        }
        for key in self._evidence.keys() - running - self._untold:
            del self._evidence[key]

    async def keep_telling(self) -> None:
        """Tell every `TELL_S` seconds, for ever."""
        while True:
            await asyncio.sleep(TELL_S)
            try:
                await self.tell()
            except Unavailable as error:
                log.info("what was seen of a candidate waits to be told: %s", error)

    async def drop_shadows(self) -> None:
        """End the shadows that run: nobody waits for their answers."""
        await end(*self._shadows)

    def _trial(self, model: ServedModel) -> Candidate | None:
        """The candidate that the model is, or is compared with, in its capability."""
        if not model.capability:
            return None
        serving = serving_of(self._values, model.capability)
        candidate = serving.candidate
        if candidate is None or _target(model) not in (candidate.target, serving.active):
            return None
        return candidate

    def _evidence_of(self, candidate: Candidate) -> Evidence:
        key = evidence_key(candidate, self._process_id)
        self._untold.add(key)
        return self._evidence.setdefault(key, Evidence())

    def _patience_s(self, candidate: Candidate) -> float:
        """How long a candidate's answer is waited for."""
        return max(LEAST_PATIENCE_S, PATIENCE * self._evidence_of(candidate).active.quantile_s(1.0))

    def _shadow(self, shadow: _Shadow) -> None:
        if len(self._shadows) >= SHADOWS_AT_ONCE:
            self._evidence_of(shadow.candidate).skipped += 1
            return
        task = asyncio.create_task(self._compare(shadow))
        self._shadows.add(task)
        task.add_done_callback(self._shadows.discard)

    async def _compare(self, shadow: _Shadow) -> None:
        evidence = self._evidence_of(shadow.candidate)
        try:
            latency_s, difference = await self._compared(shadow)
        except Unavailable as error:
            # a server that is gone is nobody's fault; a backend that crashes is
            if isinstance(error, OutOfMemory) or await self._inference.healthy():
                evidence.failed(error.message)
        except TimeoutError:
            evidence.failed(f"no answer within {self._patience_s(shadow.candidate):.0f} s")
        except NereidError as error:
            evidence.failed(error.message)
        except Exception as error:
            log.exception("a shadow of %s could not be compared", shadow.candidate.target)
            evidence.failed(f"its answer could not be compared: {error!r}")
        else:
            evidence.done()
            evidence.candidate.add(latency_s)
            evidence.differs(difference)
        self._untold.add(evidence_key(shadow.candidate, self._process_id))

    async def _compared(self, shadow: _Shadow) -> tuple[float, float]:
        """The candidate's latency, and how far its answer lies from the active model's."""
        target = shadow.candidate.target
        async with asyncio.timeout(self._patience_s(shadow.candidate)):
            candidate = await self._inference.model(target.model, target.version)
            began = time.perf_counter()
            answer = await self._inference.infer(candidate, shadow.inputs, priority=shadow.priority)
            latency_s = time.perf_counter() - began
        compare = contract_of(shadow.active.capability).compare
        difference = await asyncio.to_thread(
            compare, shadow.active, shadow.answer, candidate, answer
        )
        if not math.isfinite(difference):
            raise JobFailed("no_numbers", "its answer holds values that are no numbers")
        return latency_s, difference


def _target(model: ServedModel) -> Target:
    return Target(model=model.name, version=model.version)


class _Shadow(msgspec.Struct, frozen=True):
    """A request that the active model has answered and the candidate gets, too."""

    candidate: Candidate
    active: ServedModel
    inputs: dict[str, Any]
    answer: dict[str, Any]
    priority: int


@asynccontextmanager
async def observed(inference: Inference, values: KeyValue) -> AsyncIterator[ObservedInference]:
    """`inference` under observation while the block runs; at its end the rest is told."""
    watched = ObservedInference(inference, values)
    telling = asyncio.create_task(watched.keep_telling())
    try:
        yield watched
    finally:
        await watched.drop_shadows()
        await end(telling)
        with suppress(Unavailable):
            await watched.tell()
