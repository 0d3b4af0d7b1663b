"""The search: stage by stage, and in each a race in which what is clearly slower falls out.

A measurement is noisy, and noise of this machine comes in minutes rather than at random. Therefore
candidates are measured turn about, never one after the other, and only with each other compared.
"""

from __future__ import annotations

import statistics
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import msgspec
from msgspec.structs import replace
from tuning.setting import Setting

Measure = Callable[[Setting], Awaitable[float]]
"""The throughput that a setting gives within the latency limit; 0 where it does not keep it."""

# After so many rounds, what is below this share of the best falls out.
KEPT = (0.8, 0.92)
ROUNDS = 3
TIE = 0.02  # the setting that stands needs to be beaten by more
PASSES = 2
FINAL_ROUNDS = 5


class Race(msgspec.Struct, frozen=True, kw_only=True):
    """Settings that were measured turn about: all their rates, and which was taken."""

    rates: list[tuple[Setting, list[float]]]
    winner: Setting


@dataclass
class Trial:
    """Everything that was measured: the evidence."""

    races: list[Race] = field(default_factory=list)


@dataclass
class Search:
    """`time_left` says whether another measurement may begin; `say` is told what is found."""

    measure: Measure
    time_left: Callable[[], bool]
    say: Callable[[str], None]
    trial: Trial = field(default_factory=Trial)

    async def best(self, start: Setting, stages: Sequence[Sequence[dict[str, int]]]) -> Setting:
        """The best setting that was found; `start` where none beats it."""
        standing, open_changes = start, [list(stage) for stage in stages]
        for _ in range(PASSES):
            before = standing
            for stage in open_changes:
                candidates = {replace(standing, **change): change for change in stage}
                standing = await self.race(standing, list(candidates))
                # what was far behind at first sight is not looked at again
                near = _near(self.trial.races[-1])
                stage[:] = [change for one, change in candidates.items() if one in near]
            if standing == before:
                break
        if standing != start:
            standing = await self.race(start, [standing], rounds=FINAL_ROUNDS)
        return standing

    async def race(
        self, standing: Setting, candidates: Sequence[Setting], rounds: int = ROUNDS
    ) -> Setting:
        """The fastest, which must beat the one that stands by more than `TIE`."""
        running = list(dict.fromkeys([standing, *candidates]))
        rates: dict[Setting, list[float]] = {setting: [] for setting in running}
        for turn in range(rounds):
            if len(running) == 1:
                break
            first = turn % len(running)
            for setting in running[first:] + running[:first]:
                if not self.time_left():
                    break
                rate = await self.measure(setting)
                rates[setting].append(rate)
                self.say(f"{rate:8.2f}/s  {setting.words()}")
            running = _kept(running, rates, KEPT[min(turn, len(KEPT) - 1)], standing)
        winner = _winner(standing, rates)
        self.trial.races.append(Race(rates=list(rates.items()), winner=winner))
        self.say(f"best of {len(rates)}: {winner.words()}")
        return winner


def _kept(
    running: Sequence[Setting], rates: dict[Setting, list[float]], share: float, standing: Setting
) -> list[Setting]:
    """Those near the best; the one that stands always, for all are compared with it."""
    middle = {one: statistics.median(rates[one]) for one in running if rates[one]}
    most = max(middle.values(), default=0.0)
    return [one for one in running if one == standing or middle.get(one, 0.0) >= share * most]


def _near(race: Race) -> set[Setting]:
    """Those that stayed in the race after its first round."""
    first = {one: found[0] for one, found in race.rates if found}
    most = max(first.values(), default=0.0)
    return {one for one, rate in first.items() if rate >= KEPT[0] * most}


def _winner(standing: Setting, rates: dict[Setting, list[float]]) -> Setting:
    """By the median, among those that ran as often as any; a tie leaves things as they are."""
    longest = max(len(found) for found in rates.values())
    middle = {
        one: statistics.median(found)
        for one, found in rates.items()
        if found and len(found) >= min(longest, 2)
    }
    if not middle or not rates[standing]:
        return standing
    best = max(middle, key=middle.__getitem__)
    beaten = middle[best] > (1 + TIE) * statistics.median(rates[standing])
    return best if beaten else standing
