"""Checks a version of a model without touching what serves, then lets Triton load it for good."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import msgspec
from google.protobuf import json_format  # type: ignore[import-untyped]

from functions._kit.capabilities import (
    CONTRACTS,
    check_contract,
    differ_in,
    serving,
)
from functions._kit.errors import (
    Conflict,
    JobFailed,
    NereidError,
    NotFound,
    RequestError,
    RetryJob,
    Unavailable,
)
from functions._kit.messages import new_id, now
from functions._kit.ports import Inference, KeyValue, ModelServer, ServedModel
from functions._kit.rollout.changes import is_loaded
from functions._kit.rollout.state import (
    MODELS,
    Checked,
    Serving,
    Target,
    all_serving,
    checked_key,
    last_check,
)
from gateway.models.config import parse_config, with_policy
from gateway.models.golden import Golden, read_golden
from gateway.models.layout import CONFIG, NOTES
from gateway.models.repository import ModelRepository

ROUNDS = 9
"""Requests of either version for a median of their latencies."""
MAX_LATENCY_RATIO = 2.0
"""Of the medians, the version's to the active one's; the rollout has a finer limit on real work."""
FAULTS = (JobFailed, RequestError, RetryJob)
"""Errors that are the version's; whatever else is raised says nothing of it."""

LOST = frozenset({"model_not_found", "model_version_not_found"})
"""What `Inference` says of a trial that is gone, or cannot be loaded again."""

Ask = Callable[[ServedModel], Awaitable[Any]]
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checker:
    """Everything that a check needs."""

    repository: ModelRepository
    server: ModelServer
    inference: Inference
    values: KeyValue
    max_latency_ratio: float = MAX_LATENCY_RATIO
    say: Say = lambda _: None

    async def ensure(self, target: Target) -> None:
        """Check the version unless it has passed before with this content and is loaded.

        Raises `NotFound`, and what `check` has found, as one `JobFailed` (`check_failed`).
        """
        known = last_check(self.values, target)
        if known is not None and known.passed and known.sha256 == await self._content(target):
            if await is_loaded(self.server, target):
                return
            if target.version in await self.repository.admitted(target.model):
                await self.server.load(target.model)
                return
        if problems := (await self.check(target)).problems:
            raise JobFailed("check_failed", f"{target} failed its check: {'; '.join(problems)}")

    async def check(self, target: Target) -> Checked:
        """Load the version under a name of its own, question it, and record what was found.

        One that passes is then loaded under its own name, beside the versions that serve, which
        are not touched. Raises `NotFound` for a version that the repository lacks, and
        `Unavailable`.
        """
        found = Checked(sha256="", at=now())
        try:
            digest = await self.repository.seal(target.model, target.version)
            found = Checked(sha256=digest, at=now())
            async with self._trial(target) as trial:
                found = await self._examined(trial, target, found)
            if found.passed:
                await self._admit(target)
        except NotFound:
            raise
        except FAULTS as error:
            if error.code in LOST:
                raise Unavailable("triton", "Triton was started anew during the check") from error
            found = msgspec.structs.replace(found, problems=(*found.problems, error.message))
        await self.values.put(MODELS, checked_key(target), msgspec.json.encode(found))
        return found

    @asynccontextmanager
    async def _trial(self, target: Target) -> AsyncIterator[ServedModel]:
        """The version, loaded from its bytes under a name that nobody asks for."""
        name = f"{target.model}.trial-{target.version}-{new_id()[-6:]}"
        text = await self.repository.served_config(target.model)
        config = parse_config(with_policy(text, [target.version]), f"{target.model}/{CONFIG}")
        config.name = name
        files = await self.repository.files(target.model, target.version)
        self.say(f"{target}: loading it on trial")
        try:
            await self.server.load(
                name,
                config=json_format.MessageToJson(config, preserving_proto_field_name=True),
                files={p: data for p, data in files.items() if p.rpartition("/")[2] not in NOTES},
            )
            yield await self.server.describe(name, target.version)
        finally:
            with suppress(NereidError):
                await self.server.unload(name)

    async def _examined(self, trial: ServedModel, target: Target, found: Checked) -> Checked:
        kind = check_contract(trial)
        self.say(f"{target}: it keeps the contract of {kind}; asking it")
        await CONTRACTS[kind].probe(self.inference, trial)
        golden = await self._golden(target)
        problems = await self._golden_problems(trial, golden)
        if golden is None:
            self.say(f"{target}: no golden answers lie beside it: add it with --golden to have any")

        async def ask(model: ServedModel) -> None:
            if golden is None:
                await CONTRACTS[kind].probe(self.inference, model)
            else:
                await self.inference.infer(model, dict(golden.inputs))

        latency_s, active_s, problem = await self._latencies(trial, target, kind, ask)
        return msgspec.structs.replace(
            found,
            golden=golden is not None,
            problems=(*problems, *problem),
            latency_s=latency_s,
            active_latency_s=active_s,
        )

    async def _golden(self, target: Target) -> Golden | None:
        content = await self.repository.golden(target.model, target.version)
        return None if content is None else read_golden(content)

    async def _golden_problems(self, model: ServedModel, golden: Golden | None) -> list[str]:
        if golden is None:
            return []
        answer = await self.inference.infer(model, dict(golden.inputs))
        return [f"golden answers: {problem}" for problem in golden.compare(answer)]

    async def _latencies(
        self, trial: ServedModel, target: Target, kind: str, ask: Ask
    ) -> tuple[float, float | None, list[str]]:
        """Medians of the version and of the active one, turn about; and what is wrong with them."""
        active = await self._active(trial, target, kind)
        ours: list[float] = []
        theirs: list[float] = []
        for _ in range(ROUNDS):
            ours.append(await _timed(ask, trial))
            if active is not None:
                theirs.append(await _timed(ask, active))
        median = statistics.median(ours)
        if active is None:
            return median, None, []
        active_median = statistics.median(theirs)
        problems = []
        if median > self.max_latency_ratio * active_median:
            problems.append(
                f"it answers in {1000 * median:.1f} ms where {active.name} version"
                f" {active.version} takes {1000 * active_median:.1f}:"
                f" {median / active_median:.2f} times as long"
                f" (limit {self.max_latency_ratio:g}; --max-latency-ratio sets another)"
            )
        return median, active_median, problems

    async def _active(self, trial: ServedModel, target: Target, kind: str) -> ServedModel | None:
        """What serves where the version would, if it can be given the same requests."""
        capability = kind
        if kind == "upscale":
            served = (name for name, kept in all_serving(self.values) if _serves(kept, target))
            capability = next(served, f"upscale.{target.model}")
        try:
            active = await serving(capability, self.inference, self.values)
        except (NotFound, JobFailed):  # the first version of its model
            return None
        if (active.name, active.version) == (target.model, target.version):
            return None
        return None if differ_in(active, trial, CONTRACTS[kind].alike) else active

    async def _admit(self, target: Target) -> None:
        """Load the version beside those that serve.

        Where that fails or is broken off, one that was not admitted before is withdrawn again.
        """
        was_admitted = target.version in await self.repository.admitted(target.model)
        await self.repository.admit(target.model, target.version)
        self.say(f"{target}: loading it for good")
        try:
            await self.server.load(target.model)
            served = await self.inference.model(target.model, target.version)
            problems = await self._golden_problems(served, await self._golden(target))
        except BaseException:
            if not was_admitted:
                await asyncio.shield(self._withdraw(target))
            raise
        if problems:
            if not was_admitted:
                await self._withdraw(target)
            raise JobFailed("golden_differs", "; ".join(problems))

    async def _withdraw(self, target: Target) -> None:
        await self.repository.withdraw(target.model, target.version)
        with suppress(NereidError):  # a Triton that is away reads the config when it starts
            await self.server.load(target.model)

    async def _content(self, target: Target) -> str | None:
        """The version's hash, or None where it is not what was added."""
        try:
            return await self.repository.verify(target.model, target.version)
        except Conflict:
            return None


async def _timed(ask: Ask, model: ServedModel) -> float:
    began = time.perf_counter()
    await ask(model)
    return time.perf_counter() - began


def _serves(kept: Serving, target: Target) -> bool:
    """Whether another version of the model serves."""
    return kept.active is not None and kept.active.model == target.model
