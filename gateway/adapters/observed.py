"""The port `Inference` under observation: candidates are shadowed, timed and told of."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import msgspec
from numpy.typing import NDArray

from functions._kit.capabilities import contract_of
from functions._kit.errors import NereidError, OutOfMemory, Unavailable
from functions._kit.messages import new_id
from functions._kit.ports import Inference, KeyValue, ServedModel
from functions._kit.rollout.evidence import ROLLOUTS, Evidence, evidence_key
from functions._kit.rollout.state import Candidate, Target, all_serving
from gateway.adapters.background import end

log = logging.getLogger(__name__)

SHADOWS_AT_ONCE = 2
"""Of one process. Beyond, requests are not shadowed: a slow candidate must not pile them up."""
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
        trials = [*self._trials(model)]
        if not trials:
            return await self._inference.infer(model, inputs, priority=priority)
        began = time.perf_counter()
        answer = await self._inference.infer(model, inputs, priority=priority)
        latency_s = time.perf_counter() - began
        for capability, candidate, is_candidate in trials:
            evidence = self._evidence_of(candidate)
            if is_candidate:
                evidence.answered(latency_s)
                continue
            evidence.active.add(latency_s)
            if candidate.stage == "shadow" and random.random() < candidate.plan.shadow:  # noqa: S311
                self._shadow(_Shadow(capability, candidate, model, inputs, answer, priority))
        return answer

    def reject(self, model: ServedModel, reason: str) -> None:
        """See `Inference.reject`."""
        for _, candidate, is_candidate in self._trials(model):
            if is_candidate:
                self._evidence_of(candidate).failed(reason)
        self._inference.reject(model, reason)

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

    def _trials(self, model: ServedModel) -> list[tuple[str, Candidate, bool]]:
        """Each candidate that the model is (True), or is compared with (False)."""
        ours = Target(model=model.name, version=model.version)
        return [
            (capability, serving.candidate, ours == serving.candidate.target)
            for capability, serving in all_serving(self._values)
            if serving.candidate is not None and ours in (serving.candidate.target, serving.active)
        ]

    def _evidence_of(self, candidate: Candidate) -> Evidence:
        key = evidence_key(candidate, self._process_id)
        self._untold.add(key)
        return self._evidence.setdefault(key, Evidence())

    def _shadow(self, shadow: _Shadow) -> None:
        if len(self._shadows) >= SHADOWS_AT_ONCE:
            self._evidence_of(shadow.candidate).skipped += 1
            return
        task = asyncio.create_task(self._compare(shadow))
        self._shadows.add(task)
        task.add_done_callback(self._shadows.discard)

    async def _compare(self, shadow: _Shadow) -> None:
        evidence = self._evidence_of(shadow.candidate)
        target = shadow.candidate.target
        try:
            candidate = await self._inference.model(target.model, target.version)
            began = time.perf_counter()
            answer = await self._inference.infer(candidate, shadow.inputs, priority=shadow.priority)
            latency_s = time.perf_counter() - began
            compare = contract_of(shadow.capability).compare
            difference = await asyncio.to_thread(
                compare, shadow.active, shadow.answer, candidate, answer
            )
        except Unavailable as error:
            if isinstance(error, OutOfMemory):
                evidence.failed(error.message)
        except NereidError as error:
            evidence.failed(error.message)
        except Exception as error:
            log.exception("%s: a shadow of %s could not be compared", shadow.capability, target)
            evidence.failed(f"its answer could not be compared: {error!r}")
        else:
            evidence.answered(latency_s)
            evidence.differs(difference)
        self._untold.add(evidence_key(shadow.candidate, self._process_id))


class _Shadow(msgspec.Struct, frozen=True):
    """A request that the active model has answered and the candidate gets, too."""

    capability: str
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
