"""The search: stage by stage, and in each a race in which what is clearly slower falls out.

A measurement is noisy, and noise of this machine comes in minutes rather than at random. Therefore
candidates are measured turn about, never one after the other, and only with each other compared.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import msgspec
from msgspec.structs import replace
from tuning.setting import Setting

Measure = Callable[[Setting], Awaitable[float]]
"""The throughput that a setting gives within the latency limit; 0 where it does not keep it."""

# After the first round, the second, ... what is behind the best by more than this share falls out,
BEHIND = (0.15, 0.06, 0.04)
# or by more than so much noise, which medians of more rounds have less of.
NOISES_BEHIND = 1.5
LEAST_ROUNDS, MOST_ROUNDS = 2, 9
NOISE_OF_A_ROUND = 0.015  # a noisier machine takes a round more for each
CALIBRATIONS = 3
TIE = 0.01  # the setting that stands needs to be beaten by more
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
    noise: float = 0.0
    """By how much measurements of one setting differ, as a share."""


@dataclass
class Search:
    """`time_left` says whether another measurement may begin; `say` is told what is found."""

    measure: Measure
    time_left: Callable[[], bool]
    say: Callable[[str], None]
    trial: Trial = field(default_factory=Trial)

    async def best(self, start: Setting, stages: Sequence[Sequence[dict[str, int]]]) -> Setting:
        """The best setting that was found; `start` where none beats it."""
        await self.calibrate(start)
        standing, open_changes = start, [list(stage) for stage in stages]
        for _ in range(PASSES):
            before = standing
            for stage in open_changes:
                candidates = {replace(standing, **change): change for change in stage}
                standing = await self.race(standing, list(candidates))
                # what was behind is not looked at again
                near = self._near(self.trial.races[-1])
                stage[:] = [change for one, change in candidates.items() if one in near]
            if standing == before:
                break
        if standing != start:
            last = await self.race(start, [standing], rounds=FINAL_ROUNDS)
            # without the time for it, what the other races found holds
            whole = all(found for _, found in self.trial.races[-1].rates)
            standing = last if whole else standing
        return standing

    async def calibrate(self, start: Setting) -> None:
        """Learn how far measurements of one and the same setting lie apart."""
        rates = [await self.measure(start) for _ in range(CALIBRATIONS) if self.time_left()]
        if len(rates) > 1 and min(rates) > 0:
            self.trial.noise = (max(rates) - min(rates)) / statistics.median(rates)
        self.say(f"measurements of the setting that stands differ by {self.trial.noise:.1%}")

    def _share(self, turn: int) -> float:
        """What share of the best stays in a race after this round."""
        noise = NOISES_BEHIND * self.trial.noise / math.sqrt(turn + 1)
        return 1 - max(BEHIND[min(turn, len(BEHIND) - 1)], noise)

    def _rounds(self) -> int:
        more = round(self.trial.noise / NOISE_OF_A_ROUND)
        return min(MOST_ROUNDS, LEAST_ROUNDS + more)

    async def race(
        self, standing: Setting, candidates: Sequence[Setting], rounds: int = 0
    ) -> Setting:
        """The fastest, which must beat the one that stands by more than `TIE`.

        `rounds`: at most; as many as the noise asks for where it is 0.
        """
        running = list(dict.fromkeys([standing, *candidates]))
        rates: dict[Setting, list[float]] = {setting: [] for setting in running}
        for turn in range(rounds or self._rounds()):
            if len(running) == 1:
                break
            first = turn % len(running)
            for setting in running[first:] + running[:first]:
                if not self.time_left():
                    break
                rate = await self.measure(setting)
                rates[setting].append(rate)
                self.say(f"{rate:8.2f}/s  {setting.words()}")
            running = _kept(running, rates, self._share(turn), standing)
        winner = _winner(standing, rates)
        self.trial.races.append(Race(rates=list(rates.items()), winner=winner))
        self.say(f"best of {len(rates)}: {winner.words()}")
        return winner

    def _near(self, race: Race) -> set[Setting]:
        """Those that stayed in the race to its end."""
        longest = max(len(found) for _, found in race.rates)
        middle = {one: statistics.median(found) for one, found in race.rates if found}
        share = self._share(longest) * max(middle.values(), default=0.0)
        return {one for one, rate in middle.items() if rate >= share}


def _kept(
    running: Sequence[Setting], rates: dict[Setting, list[float]], share: float, standing: Setting
) -> list[Setting]:
    """Those near the best; the one that stands always, for all are compared with it."""
    middle = {one: statistics.median(rates[one]) for one in running if rates[one]}
    most = max(middle.values(), default=0.0)
    return [one for one in running if one == standing or middle.get(one, 0.0) >= share * most]


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
