"""Of each target: met, missed, or not measurable on this machine, and why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import msgspec
from served.lines import Line, words
from served.machine import Machine
from served.targets import Bounds, Load, Row, RowTarget

Outcome: TypeAlias = Literal["met", "missed", "not measurable"]
NO_GPU = "there is no NVIDIA GPU here"


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one target."""

    row: str
    target: str
    outcome: Outcome
    why: str
    """The value that was found and where, or what is missing."""

    def sentence(self) -> str:
        """One line for people."""
        return f"{self.outcome}: {self.row}: {self.target}: {self.why}"


def of_row(row: Row, lines: Sequence[Line]) -> list[Verdict]:
    """The verdicts on a row that was measured."""
    return [_of_target(row, target, lines) for target in row.target]


def _of_target(row: Row, target: RowTarget, lines: Sequence[Line]) -> Verdict:
    found = {
        words(line.point): value
        for line in lines
        if target.shape in {None, line.point.shape}
        and target.concurrency in {None, line.point.concurrency}
        and (value := line.figure(target.figure)) is not None
    }
    if not found:
        return not_measurable(row.name, _name(target), "no point of this run has that figure")
    # a rate is the best point's, a latency must be kept at every one
    telling = max(found, key=found.__getitem__)
    outcome: Outcome = "met" if target.hold(found[telling]) else "missed"
    why = f"{found[telling]:.4g} at {telling}"
    return Verdict(row=row.name, target=_name(target), outcome=outcome, why=why)


def _name(target: RowTarget) -> str:
    where = ""
    if target.shape is not None:
        where += f" of {target.shape[1]} x {target.shape[0]}"
    if target.concurrency is not None:
        where += f" at {target.concurrency} at once"
    return f"{target.figure}{where} {target.words()}"


def not_measurable(row: str, target: str, why: str) -> Verdict:
    """A target that this machine cannot say anything about."""
    return Verdict(row=row, target=target, outcome="not measurable", why=why)


def row_not_measured(row: Row, why: str) -> list[Verdict]:
    """The verdicts on a row that was not measured."""
    targets = [_name(target) for target in row.target] or ["its figures"]
    return [not_measurable(row.name, target, why) for target in targets]


def why_not_row(row: Row, here: Machine, *, analyzer: bool, triton: str) -> str:
    """Why a row cannot be measured here; empty when it can."""
    if not analyzer:
        return "perf_analyzer is not installed"
    if row.device == "gpu" and not here.gpus:
        return NO_GPU
    if row.device == "gpu" and not triton:
        return "it needs Triton on the GPU, and --triton HOST:PORT says where"
    return ""


def why_not_load(gpus: int, here: Machine, triton: str) -> str:
    """Why a load for so many GPUs cannot be measured here; empty when it can."""
    if not here.gpus:
        return NO_GPU
    if len(here.gpus) != gpus:
        return f"it is for {_count(gpus)}, and this machine has {len(here.gpus)}"
    return "" if triton else "it needs Triton on the GPUs, and --triton HOST:PORT says where"


def of_load(
    load: Load, gpus: int, found: dict[str, float], missing: dict[str, str]
) -> list[Verdict]:
    """The verdicts on a load by the figures `found`; `missing` says why others are not there."""
    verdicts = []
    for target in load.for_gpus(gpus):
        name = f"{target.figure} on {_count(gpus)} {target.words()}"
        if target.figure in found:
            verdicts.append(_judged(load.name, name, target, found[target.figure]))
        else:
            why = missing.get(target.figure, "it was not measured in this run")
            verdicts.append(not_measurable(load.name, name, why))
    return verdicts


def _judged(row: str, name: str, target: Bounds, value: float) -> Verdict:
    outcome: Outcome = "met" if target.hold(value) else "missed"
    return Verdict(row=row, target=name, outcome=outcome, why=f"{value:.4g}")


def load_not_measured(load: Load, gpus: int, why: str) -> list[Verdict]:
    """The verdicts on a load that was not measured."""
    return of_load(load, gpus, {}, {target.figure: why for target in load.for_gpus(gpus)})


def _count(gpus: int) -> str:
    return f"{gpus} GPU{'s' if gpus != 1 else ''}"
