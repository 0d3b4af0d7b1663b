"""A made machine: what each setting gives there, and how noisily it is measured."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from tritonclient.grpc.model_config_pb2 import ModelConfig
from tuning.setting import Setting

CORES = 2


def config() -> Any:
    """A model with everything that can be tuned."""
    made = ModelConfig(name="m", backend="openvino", max_batch_size=1)
    made.dynamic_batching.priority_levels = 3
    made.parameters["streams"].string_value = "1"
    return made


@dataclass
class Surface:
    """Rates from the machine's cores, overheads and batches; another one for each seed."""

    chance: random.Random
    noise: float = 0.0
    drift: float = 0.0
    """The share by which the machine slows down with every measurement."""
    flat: bool = False
    measured: int = 0

    def __post_init__(self) -> None:
        self._batch_gain = self.chance.uniform(-0.02, 0.15)
        self._per_worker = self.chance.uniform(0.02, 0.1)
        self._favourite = self.chance.choice((1, 2, 4))

    def true(self, setting: Setting) -> float:
        """Pictures a second, were there no noise."""
        if self.flat:
            return 50.0
        workers = setting.instances * setting.streams
        busy = min(workers, self._favourite) / self._favourite
        crowded = 1 + self._per_worker * max(0, workers - self._favourite)
        batching = 1 + self._batch_gain * (setting.max_batch - 1) / 7
        waiting = 1 + setting.delay_us / 40_000
        return 50.0 * busy * batching / crowded / waiting

    async def measure(self, setting: Setting) -> float:
        """One noisy look."""
        self.measured += 1
        slower = (1 - self.drift) ** self.measured
        return self.true(setting) * slower * self.chance.gauss(1.0, self.noise)
