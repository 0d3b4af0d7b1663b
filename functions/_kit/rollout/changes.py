"""Changes of what serves a capability, each one compare-and-swap: stage, switch, roll back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import msgspec
from msgspec.structs import replace

from functions._kit.capabilities import (
    check_fits,
    contract_of,
    default_model,
    differ_in,
)
from functions._kit.errors import Conflict, NotFound, Unprocessable
from functions._kit.messages import Message, new_id, now
from functions._kit.ports import Inference, KeyValue, ModelServer, Stream
from functions._kit.rollout.evidence import Evidence, EvidenceSummary, collected, summary
from functions._kit.rollout.judge import judge
from functions._kit.rollout.state import (
    CAPABILITIES,
    Candidate,
    Outcome,
    Plan,
    Serving,
    Target,
    all_serving,
    checked,
    decode_serving,
)

ENDED = frozenset({"promoted", "rolled_back", "abandoned"})
"""What ends a rollout, among `RolloutEvent.what`."""


def event_subject(capability: str) -> str:
    """Where the facts of a capability are told: dots would be further parts of the subject."""
    return f"events.models.{capability.replace('.', '_')}"


class RolloutEvent(Message, frozen=True, kw_only=True):
    """A fact on `event_subject`: what serves a capability, or is on its way to, has changed."""

    capability: str
    what: str
    """staged, canary, promoted, switched, rolled_back or abandoned."""
    target: Target
    """What was staged, promoted, switched to, or given up."""
    active: Target | None
    """What serves from now on."""
    why: str
    at: datetime
    rollout_id: str | None = None
    evidence: EvidenceSummary | None = None


@dataclass(frozen=True, slots=True)
class Rollouts:
    """The changes, over the ports that they need."""

    values: KeyValue
    inference: Inference
    server: ModelServer
    stream: Stream

    async def switch(self, capability: str, target: Target, *, why: str = "by hand") -> Serving:
        """Let `target` serve from now on, in every process; a candidate is given up.

        Raises as `admissible` does.
        """
        await self.admissible(capability, target)
        default = await self._default(capability)
        given_up: list[Candidate] = []

        def change(kept: Serving) -> Serving:
            given_up[:] = [kept.candidate] if kept.candidate is not None else []
            active = kept.active or default
            previous = kept.previous if active == target else active
            outcome = Outcome(what="switched", target=target, why=why, at=now())
            return Serving(active=target, previous=previous, outcome=outcome)

        serving = await self._change(capability, change)
        for candidate in given_up:
            await self._tell(
                capability, serving, "abandoned", candidate.target, why, rollout=candidate
            )
        await self._tell(capability, serving, "switched", target, why)
        return serving

    async def stage(self, capability: str, target: Target, plan: Plan) -> Serving:
        """Try `target` on real requests, as `plan` says; the judge does the rest.

        Raises as `admissible` does, `Conflict` (`rollout_running`, `already_active`), and
        `Unprocessable` (`invalid_plan`, `cannot_be_shadowed`).
        """
        check_plan(plan)
        await self.admissible(capability, target)
        default = await self._default(capability)
        kept, _ = await self._kept(capability)
        if plan.shadow:
            await self._check_shadow(capability, kept.active or default, target)
        candidate = Candidate(
            target=target,
            plan=plan,
            stage="shadow" if plan.shadow else "canary",
            rollout_id=new_id(),
            since=now(),
        )

        def change(kept: Serving) -> Serving:
            if kept.candidate is not None:
                raise Conflict(
                    "rollout_running",
                    f"{kept.candidate.target} is on its way to {capability} already: wait for its"
                    " end, or roll it back first",
                    field="capability",
                )
            active = kept.active or default
            if active == target:
                raise Conflict(
                    "already_active", f"{target} serves {capability} already", field="version"
                )
            return replace(kept, active=active, candidate=candidate)

        serving = await self._change(capability, change)
        why = f"{candidate.stage} share {plan.shadow or plan.canary:g}"
        await self._tell(capability, serving, "staged", target, why, rollout=candidate)
        return serving

    async def roll_back(self, capability: str, *, why: str = "by hand") -> Serving:
        """Give up the candidate if there is one, else go back to what served before.

        Raises `Conflict` (`nothing_to_roll_back`), or `model_not_loaded` where that is gone.
        """
        contract_of(capability)
        kept, _ = await self._kept(capability)
        if kept.candidate is not None:
            return await self._give_up(capability, kept.candidate, "abandoned", why)
        if kept.previous is None or kept.active is None:
            raise Conflict(
                "nothing_to_roll_back",
                f"{capability} has no candidate and was never switched",
                field="capability",
            )
        await self._check_loaded(kept.previous)
        left = kept.active

        def change(now_kept: Serving) -> Serving:
            if now_kept != kept:
                raise Conflict("changed_meanwhile", f"{capability} was changed at this moment")
            outcome = Outcome(what="rolled_back", target=left, why=why, at=now())
            return Serving(active=kept.previous, previous=left, outcome=outcome)

        serving = await self._change(capability, change)
        await self._tell(capability, serving, "rolled_back", left, why)
        return serving

    async def proceed(self, capability: str, kept: Serving, *, at: datetime) -> str | None:
        """Judge the candidate by what was seen of it; what was done, or None.

        Safe from several processes at once: whoever swaps first has decided.
        """
        candidate = kept.candidate
        assert candidate is not None
        evidence = collected(self.values, candidate)
        limit = contract_of(capability).max_difference
        verdict = judge(candidate, evidence, max_difference=limit, at=at)
        if verdict.what == "roll_back":
            await self._give_up(capability, candidate, "rolled_back", verdict.why, evidence)
            return "rolled_back"
        if verdict.what == "advance":
            return await self._advance(capability, candidate, verdict.why, evidence)
        return None

    async def admissible(self, capability: str, target: Target) -> None:
        """Raise unless `target` may serve `capability` now.

        `Conflict` (`model_not_loaded`, `model_not_checked`), `Unprocessable` (`model_contract`,
        `unknown_capability`), `NotFound` (`model_not_found`).
        """
        contract_of(capability)
        names = await self.inference.model_names()
        wanted = {"capability": default_model(capability), "model": target.model}
        for field, name in wanted.items():
            if name not in names:
                raise NotFound(
                    "model_not_found", f"{field}: there is no model {name[:100]!r}", field=field
                )
        await self._check_loaded(target)
        check_fits(capability, await self.inference.model(target.model, target.version))
        kept, _ = await self._kept(capability)
        if target in (kept.active, kept.previous):
            return  # it has served, and versions never change
        check = await checked(self.values, target)
        if check is None or not check.passed:
            found = "was never checked" if check is None else f"failed: {check.problems[0]}"
            raise Conflict(
                "model_not_checked",
                f"{target} may not serve: its check {found}; run `nereid models check"
                f" {target.model} {target.version}`",
                field="version",
            )

    async def _default(self, capability: str) -> Target:
        """What serves a capability that nobody has touched."""
        model = await self.inference.model(default_model(capability))
        return Target(model=model.name, version=model.version)

    async def _check_loaded(self, target: Target) -> None:
        if await is_loaded(self.server, target):
            return
        raise Conflict(
            "model_not_loaded",
            f"{target} is not loaded: run `nereid models check {target.model} {target.version}`,"
            " which loads what is sound",
            field="version",
        )

    async def _check_shadow(self, capability: str, active: Target, target: Target) -> None:
        ours = await self.inference.model(active.model, active.version)
        theirs = await self.inference.model(target.model, target.version)
        if differing := differ_in(ours, theirs, contract_of(capability).alike):
            raise Unprocessable(
                "cannot_be_shadowed",
                f"shadow: {target} does not take the requests of {active}, for they differ in"
                f" {', '.join(differing)}; stage it with a shadow share of 0",
                field="shadow",
            )

    async def _advance(
        self, capability: str, candidate: Candidate, why: str, evidence: Evidence
    ) -> str:
        if candidate.stage == "shadow" and candidate.plan.canary:
            further = replace(candidate, stage="canary", since=now())
            serving = await self._swap_candidate(
                capability, candidate, lambda kept: replace(kept, candidate=further)
            )
            what = "canary"
        else:
            outcome = Outcome(what="promoted", target=candidate.target, why=why, at=now())
            serving = await self._swap_candidate(
                capability,
                candidate,
                lambda kept: Serving(
                    active=candidate.target, previous=kept.active, outcome=outcome
                ),
            )
            what = "promoted"
        await self._tell(
            capability, serving, what, candidate.target, why, rollout=candidate, evidence=evidence
        )
        return what

    async def _give_up(
        self,
        capability: str,
        candidate: Candidate,
        what: str,
        why: str,
        evidence: Evidence | None = None,
    ) -> Serving:
        outcome = Outcome(
            what="abandoned" if what == "abandoned" else "rolled_back",
            target=candidate.target,
            why=why,
            at=now(),
        )
        serving = await self._swap_candidate(
            capability, candidate, lambda kept: replace(kept, candidate=None, outcome=outcome)
        )
        if evidence is None:
            evidence = collected(self.values, candidate)
        await self._tell(
            capability, serving, what, candidate.target, why, rollout=candidate, evidence=evidence
        )
        return serving

    async def _swap_candidate(
        self, capability: str, candidate: Candidate, change: Callable[[Serving], Serving]
    ) -> Serving:
        """`change` what is kept while `candidate` is still in it, in this stage."""

        def guarded(kept: Serving) -> Serving:
            if kept.candidate != candidate:
                raise Conflict("changed_meanwhile", f"{capability} was changed at this moment")
            return change(kept)

        return await self._change(capability, guarded)

    async def _kept(self, capability: str) -> tuple[Serving, int]:
        entry = await self.values.get(CAPABILITIES, capability)
        return (Serving(), 0) if entry is None else (decode_serving(entry.value), entry.revision)

    async def _change(self, capability: str, change: Callable[[Serving], Serving]) -> Serving:
        while True:
            kept, revision = await self._kept(capability)
            serving = change(kept)
            value = msgspec.json.encode(serving)
            if await self.values.swap(CAPABILITIES, capability, value, revision=revision):
                return serving

    async def _tell(
        self,
        capability: str,
        serving: Serving,
        what: str,
        target: Target,
        why: str,
        *,
        rollout: Candidate | None = None,
        evidence: Evidence | None = None,
    ) -> None:
        event = RolloutEvent(
            capability=capability,
            what=what,
            target=target,
            active=serving.active,
            why=why,
            at=now(),
            rollout_id=None if rollout is None else rollout.rollout_id,
            evidence=None if evidence is None else summary(evidence),
        )
        await self.stream.publish(event_subject(capability), event)


def check_plan(plan: Plan) -> None:
    """Raise `Unprocessable` (`invalid_plan`) for one without a share, or that nobody could read."""
    try:
        msgspec.json.decode(msgspec.json.encode(plan), type=Plan)
    except msgspec.ValidationError as error:
        raise Unprocessable("invalid_plan", f"the plan does not fit: {error}") from error
    if not (plan.shadow or plan.canary):
        raise Unprocessable(
            "invalid_plan",
            "shadow and canary are both 0: give one of them a share, or switch at once",
            field="canary",
        )


async def is_loaded(server: ModelServer, target: Target) -> bool:
    """Whether the server has the version ready for requests."""
    return any(
        (found.model, found.version, found.state) == (target.model, target.version, "ready")
        for found in await server.versions()
    )


def in_use(values: KeyValue, target: Target) -> str | None:
    """What the version serves, or is on its way to, as a phrase; None where nothing needs it."""
    for capability, kept in all_serving(values):
        if kept.active == target:
            return f"serves {capability}"
        if kept.candidate is not None and kept.candidate.target == target:
            return f"is on its way to {capability}"
        if kept.previous == target:
            return f"is what {capability} would be rolled back to"
    return None
