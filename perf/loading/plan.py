"""What a load test sends: which photos, how many, how urgent, from how many clients."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

PIXELS = {"1080p": (1920, 1080), "4K": (3840, 2160), "24 MP": (6000, 4000)}
"""Width and height of each kind of photo."""
PRIORITIES = range(1, 11)
BANDS = {"low": range(1, 4), "normal": range(4, 8), "high": range(8, 11)}
MANY_CORES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much is sent: photos by kind, the clients that share them, and when to give up."""

    photos: Mapping[str, int]
    clients: int
    poll_s: float
    """How often a client asks for its task's status."""
    limit_s: float
    """What is not done by then is reported as not done."""

    @property
    def tasks(self) -> int:
        """All photos together."""
        return sum(self.photos.values())


SIZES = {
    "small": Size(photos={"1080p": 5, "4K": 1, "24 MP": 1}, clients=4, poll_s=0.5, limit_s=30 * 60),
    "medium": Size(
        photos={"1080p": 28, "4K": 8, "24 MP": 4}, clients=12, poll_s=0.5, limit_s=60 * 60
    ),
    "large": Size(
        photos={"1080p": 168, "4K": 48, "24 MP": 24}, clients=48, poll_s=0.5, limit_s=60 * 60
    ),
}
"""Two cores work some six minutes at `small`, eight cores as long at `medium`, a GPU at `large`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One photo that a client sends."""

    number: int
    kind: str
    scale: int
    priority: int

    @property
    def band(self) -> str:
        """The queue that its priority goes to."""
        return band(self.priority)

    @property
    def result(self) -> tuple[int, int]:
        """Width and height of what must come back."""
        width, height = PIXELS[self.kind]
        return width * self.scale, height * self.scale


def size_for(cores: int, gpus: int) -> str:
    """The name of the size that fits a machine."""
    if gpus:
        return "large"
    return "medium" if cores >= MANY_CORES else "small"


def band(priority: int) -> str:
    """`low`, `normal` or `high`. Raises `ValueError` for what is no priority."""
    for name, priorities in BANDS.items():
        if priority in priorities:
            return name
    raise ValueError(f"priority {priority}: it must be 1 to 10")


def plan(size: Size, *, scale: int, seed: int) -> list[Order]:
    """Every photo of `size` in an order that `seed` draws; each priority as often as any other."""
    draw = random.Random(seed)  # noqa: S311 - a load is no secret
    turn = [5, 9, 2, 7, 10, 3, 4, 8, 1, 6]  # of fewer than ten photos each band has some
    kinds = [kind for kind, count in size.photos.items() for _ in range(count)]
    drawn = [(kind, turn[number % len(turn)]) for number, kind in enumerate(kinds)]
    draw.shuffle(drawn)
    return [
        Order(number=number, kind=kind, scale=scale, priority=priority)
        for number, (kind, priority) in enumerate(drawn)
    ]
