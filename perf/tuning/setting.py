"""What is tuned: instances, streams, the largest batch and the queue delay of a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from served.server import parameter

BACKEND_WITH_STREAMS = "openvino"
BATCHES = (1, 2, 4, 8, 16, 32)
DELAYS_US = (0, 200, 1000, 5000)
LARGEST_BATCH_ON_A_CPU = 8
STREAMS_PER_CORE = 4  # of all instances together


class Setting(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """A way of serving a model."""

    instances: int
    streams: int
    """Requests that one instance runs at the same time; 0 where the backend knows no streams."""
    max_batch: int
    """0: the model takes no batches."""
    delay_us: int
    """Microseconds that a request waits for company; 0: none."""

    def words(self) -> str:
        """As people say it."""
        streams = f" x {self.streams} streams" if self.streams else ""
        return (
            f"{self.instances} instances{streams}, batches of up to {self.max_batch},"
            f" queue delay {self.delay_us} us"
        )


def present(config: Any) -> Setting:
    """The setting of a configuration."""
    with_streams = config.backend == BACKEND_WITH_STREAMS
    return Setting(
        instances=max(1, sum(group.count for group in config.instance_group)),
        streams=int(parameter(config, "streams", "1")) if with_streams else 0,
        max_batch=config.max_batch_size,
        delay_us=config.dynamic_batching.max_queue_delay_microseconds,
    )


def put(config: Any, setting: Setting) -> Any:
    """A copy of the configuration with another setting."""
    fresh = type(config)()
    fresh.CopyFrom(config)
    now = present(config)
    if setting.instances != now.instances:
        if len(fresh.instance_group) == 0:
            fresh.instance_group.add()
        del fresh.instance_group[1:]
        fresh.instance_group[0].count = setting.instances
    if setting.streams != now.streams:
        fresh.parameters["streams"].string_value = str(setting.streams)
    fresh.max_batch_size = setting.max_batch
    if setting.delay_us != now.delay_us:
        fresh.dynamic_batching.max_queue_delay_microseconds = setting.delay_us
    preferred = fresh.dynamic_batching.preferred_batch_size
    if any(size > setting.max_batch for size in preferred):
        kept = [size for size in preferred if size <= setting.max_batch]
        del preferred[:]
        preferred.extend(kept)
    return fresh


def stages(config: Any, cores: int) -> list[Sequence[dict[str, int]]]:
    """What is tried, the most telling first; each stage is a list of changes to the best so far."""
    on_cpu = config.backend == BACKEND_WITH_STREAMS
    parallel: list[dict[str, int]] = [
        {"instances": instances, "streams": streams}
        for instances in sorted({1, 2, cores})
        for streams in sorted({1, max(1, cores // 2), cores, 2 * cores})
        if instances * streams <= STREAMS_PER_CORE * cores
    ]
    if not on_cpu:
        parallel = [{"instances": instances} for instances in (1, 2, 3, 4)]
    found: list[Sequence[dict[str, int]]] = [parallel]
    if config.max_batch_size > 0:
        sizes = [b for b in BATCHES if not on_cpu or b <= LARGEST_BATCH_ON_A_CPU]
        found.append([{"max_batch": size} for size in sizes])
        if config.HasField("dynamic_batching"):
            found.append([{"delay_us": delay} for delay in DELAYS_US])
    return found
