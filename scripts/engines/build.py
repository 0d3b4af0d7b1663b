"""One engine, by TensorRT's Python API."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from engines.errors import EngineError
from engines.files import write_whole
from engines.pins import pin_ends
from engines.profiles import Shapes

PRECISIONS = ("fp32", "fp16", "int8")


@dataclass(frozen=True, kw_only=True)
class Order:
    """What to build. `graph`: a serialised ONNX; `calibrator`: for int8 alone."""

    name: str
    graph: bytes
    profile: dict[str, Shapes]
    precision: str
    timing_cache: Path
    workspace_bytes: int
    calibrator: Any = None


def build_plan(trt: ModuleType, order: Order) -> bytes:
    """The serialised engine; the timing cache grows by what was measured. Raises EngineError."""
    if order.precision not in PRECISIONS:
        raise EngineError(
            f"{order.name}: the precision {order.precision!r} is none of {', '.join(PRECISIONS)}"
        )
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH))
    _parse(trt, network, logger, order)
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, order.workspace_bytes)
    _set_precision(trt, network, config, order.precision)
    profile = _profile(builder, network, order)
    if config.add_optimization_profile(profile) < 0:
        raise EngineError(f"{order.name}: TensorRT refuses the profile {order.profile}")
    if order.precision == "int8":
        config.int8_calibrator = order.calibrator
        if not config.set_calibration_profile(profile):
            raise EngineError(f"{order.name}: TensorRT refuses the profile for calibration")
    _take_timings(config, order.timing_cache)
    plan = builder.build_serialized_network(network, config)
    if order.calibrator is not None and order.calibrator.failure is not None:
        raise EngineError(f"{order.name}: calibration failed: {order.calibrator.failure}")
    if plan is None:
        raise EngineError(f"{order.name}: TensorRT built no engine; its own words stand above")
    write_whole(order.timing_cache, bytes(config.get_timing_cache().serialize()))
    return bytes(plan)


def _parse(trt: ModuleType, network: Any, logger: Any, order: Order) -> None:
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(order.graph):
        errors = [str(parser.get_error(number)) for number in range(parser.num_errors)]
        raise EngineError(f"{order.name}: TensorRT cannot read the graph: {'; '.join(errors)}")


def _set_precision(trt: ModuleType, network: Any, config: Any, precision: str) -> None:
    """FP32 is meant: pictures of 16 bits do not survive the 10 bits of TF32."""
    if precision == "fp32":
        config.clear_flag(trt.BuilderFlag.TF32)
        return
    config.set_flag(trt.BuilderFlag.FP16)
    if precision == "int8":
        config.set_flag(trt.BuilderFlag.INT8)
    pin_ends(trt, network)
    config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)


def _profile(builder: Any, network: Any, order: Order) -> Any:
    inputs = [network.get_input(number) for number in range(network.num_inputs)]
    names = sorted(tensor.name for tensor in inputs)
    if names != sorted(order.profile):
        raise EngineError(
            f"{order.name}: the ONNX has the inputs {names}, and configs/tensorrt.pbtxt"
            f" {sorted(order.profile)}"
        )
    profile = builder.create_optimization_profile()
    for name, shapes in order.profile.items():
        try:
            profile.set_shape(name, shapes.minimum, shapes.optimum, shapes.maximum)
        except ValueError as error:
            raise EngineError(f"{order.name}: TensorRT refuses the profile: {error}") from error
    return profile


def _take_timings(config: Any, file: Path) -> None:
    """What was measured before, on this GPU by this TensorRT; one of others counts for nothing."""
    known = file.read_bytes() if file.exists() else b""
    cache = config.create_timing_cache(known)
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)
