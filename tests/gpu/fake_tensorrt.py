"""A stand-in for `tensorrt_bindings` 10.9: what the builder of engines uses of it, recorded.

Names and calls are those of the real module's wheel, which cannot be imported without a GPU's
libraries. It fails where the real one does: an unknown input, a profile out of order, none for a
dynamic input, INT8 without a calibrator, a timing cache of another GPU, a graph it cannot read.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import Any

import onnx
from onnx import TensorProto

__version__ = "10.9.0.34"


class DataType(Enum):
    """Types of tensors."""

    FLOAT = "float32"
    HALF = "float16"
    INT64 = "int64"
    INT32 = "int32"
    BOOL = "bool"
    UINT8 = "uint8"


float32 = DataType.FLOAT
KINDS = {
    TensorProto.FLOAT: DataType.FLOAT,
    TensorProto.INT64: DataType.INT64,
    TensorProto.INT32: DataType.INT32,
    TensorProto.BOOL: DataType.BOOL,
    TensorProto.UINT8: DataType.UINT8,
}


class LayerType(Enum):
    """Kinds of layers; all that are no convolution behave alike here."""

    CONVOLUTION = 0
    CAST = 1
    CONSTANT = 2
    SHAPE = 3
    ELEMENTWISE = 4


class BuilderFlag(Enum):
    """Flags of a build."""

    FP16 = 0
    INT8 = 1
    TF32 = 2
    OBEY_PRECISION_CONSTRAINTS = 3


class NetworkDefinitionCreationFlag(IntEnum):
    """Flags of a network."""

    EXPLICIT_BATCH = 0


class MemoryPoolType(Enum):
    """Pools of memory."""

    WORKSPACE = 0


class Logger:
    """Takes TensorRT's words."""

    WARNING = 2

    def __init__(self, severity: int) -> None:
        self.severity = severity


@dataclass
class Tensor:
    """A tensor of a network."""

    name: str
    dtype: DataType
    shape: tuple[int, ...] = ()


class Layer:
    """A layer; what is set is kept."""

    def __init__(self, kind: LayerType, inputs: list[Tensor | None], outputs: list[Tensor]) -> None:
        self.type = kind
        self.precision: DataType | None = None
        self.output_types: dict[int, DataType] = {}
        self._inputs, self._outputs = inputs, outputs
        self.num_inputs, self.num_outputs = len(inputs), len(outputs)

    def get_input(self, index: int) -> Tensor | None:
        return self._inputs[index]

    def get_output(self, index: int) -> Tensor:
        return self._outputs[index]

    def set_output_type(self, index: int, dtype: DataType) -> None:
        if self._outputs[index].dtype is not DataType.FLOAT:
            raise ValueError("the type of whole numbers cannot be set")
        self.output_types[index] = dtype


class Network:
    """INetworkDefinition."""

    def __init__(self) -> None:
        self.inputs: list[Tensor] = []
        self.layers: list[Layer] = []

    @property
    def num_inputs(self) -> int:
        return len(self.inputs)

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    def get_input(self, index: int) -> Tensor:
        return self.inputs[index]

    def get_layer(self, index: int) -> Layer:
        return self.layers[index]


class OnnxParser:
    """Reads a graph as one layer for each node."""

    def __init__(self, network: Network, _logger: Logger) -> None:
        self._network = network
        self._errors: list[str] = []

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> str:
        return self._errors[index]

    def parse(self, model: bytes) -> bool:
        try:
            graph = onnx.shape_inference.infer_shapes(onnx.load_from_string(model)).graph
        except Exception as error:  # noqa: BLE001 - a parser tells, and does not raise
            self._errors.append(str(error))
            return False
        infos = [*graph.input, *graph.value_info, *graph.output]
        kinds = {info.name: info.type.tensor_type.elem_type for info in infos}
        kinds |= {item.name: item.data_type for item in graph.initializer}
        for info in graph.input:
            dims = tuple(dim.dim_value or -1 for dim in info.type.tensor_type.shape.dim)
            self._network.inputs.append(Tensor(info.name, KINDS[kinds[info.name]], dims))
        ends = {info.name for info in graph.output}
        for node in graph.node:
            for name in node.output:
                if kinds[name] == TensorProto.UINT8 and name not in ends:
                    self._errors.append(
                        f"{node.op_type}: TensorRT does not support UINT8 types for intermediate"
                        " tensors!"
                    )
            kind = {"Conv": "CONVOLUTION", "Cast": "CAST", "Shape": "SHAPE"}.get(node.op_type)
            inputs = [Tensor(name, KINDS[kinds[name]]) if name else None for name in node.input]
            outputs = [Tensor(name, KINDS[kinds[name]]) for name in node.output]
            layer = Layer(LayerType[kind or "ELEMENTWISE"], inputs, outputs)
            self._network.layers.append(layer)
        return not self._errors


class Profile:
    """IOptimizationProfile."""

    def __init__(self) -> None:
        self.shapes: dict[str, list[tuple[int, ...]]] = {}

    def set_shape(
        self, name: str, low: tuple[int, ...], best: tuple[int, ...], high: tuple[int, ...]
    ) -> None:
        if not all(a <= b <= c for a, b, c in zip(low, best, high, strict=True)):
            raise ValueError("the smallest, optimal and largest shape are out of order")
        self.shapes[name] = [low, best, high]


class TimingCache:
    """ITimingCache: its text names the GPU that it is for."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def serialize(self) -> memoryview:
        return memoryview(self.data)


class Config:
    """IBuilderConfig."""

    def __init__(self) -> None:
        self.flags = {BuilderFlag.TF32}
        self.profiles: list[Profile] = []
        self.calibration_profile: Profile | None = None
        self.int8_calibrator: Any = None
        self.workspace = 0
        self.timing_cache: TimingCache | None = None

    def set_flag(self, flag: BuilderFlag) -> None:
        self.flags.add(flag)

    def clear_flag(self, flag: BuilderFlag) -> None:
        self.flags.discard(flag)

    def set_memory_pool_limit(self, _pool: MemoryPoolType, pool_size: int) -> None:
        self.workspace = pool_size

    def add_optimization_profile(self, profile: Profile) -> int:
        if any(side < 0 for shapes in profile.shapes.values() for side in shapes[0]):
            return -1
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def set_calibration_profile(self, profile: Profile) -> bool:
        self.calibration_profile = profile
        return True

    def create_timing_cache(self, serialized_timing_cache: bytes) -> TimingCache:
        return TimingCache(serialized_timing_cache)

    def set_timing_cache(self, cache: TimingCache, *, ignore_mismatch: bool) -> bool:
        if cache.data.startswith(b"of another GPU") and not ignore_mismatch:
            return False
        self.timing_cache = cache
        return True

    def get_timing_cache(self) -> TimingCache | None:
        return self.timing_cache


@dataclass
class Build:
    """What was asked of the last build."""

    network: Network
    config: Config
    learned: int = 0
    batches: list[list[int]] = field(default_factory=list)


class Builder:
    """Builds a plan that tells what it was built from; `last` is the last build."""

    last: Build | None = None

    def __init__(self, logger: Logger) -> None:
        self._logger = logger

    def create_network(self, flags: int) -> Network:
        if flags != 1 << int(NetworkDefinitionCreationFlag.EXPLICIT_BATCH):
            raise ValueError("an ONNX graph wants an explicit batch")
        return Network()

    def create_builder_config(self) -> Config:
        return Config()

    def create_optimization_profile(self) -> Profile:
        return Profile()

    def build_serialized_network(self, network: Network, config: Config) -> bytes | None:
        Builder.last = build = Build(network, config)
        for tensor in network.inputs:
            dynamic = -1 in tensor.shape
            shapes = [profile.shapes.get(tensor.name) for profile in config.profiles]
            if dynamic and (not shapes or None in shapes):
                return None
        known = {tensor.name for tensor in network.inputs}
        if any(name not in known for profile in config.profiles for name in profile.shapes):
            return None
        if BuilderFlag.INT8 in config.flags and not self._calibrate(network, config, build):
            return None
        if config.timing_cache is not None and not config.timing_cache.data:
            config.timing_cache.data = b"measured"
        flags = sorted(flag.name for flag in config.flags)
        return f"plan {flags} {[profile.shapes for profile in config.profiles]}".encode()

    @staticmethod
    def _calibrate(network: Network, config: Config, build: Build) -> bool:
        calibrator = config.int8_calibrator
        if calibrator is None or config.calibration_profile is None:
            return False
        if not calibrator.made:
            raise TypeError("IInt8EntropyCalibrator2.__init__ was not called")
        if calibrator.read_calibration_cache() is not None:
            return True
        while batch := calibrator.get_batch([tensor.name for tensor in network.inputs]):
            build.batches.append(batch)
        calibrator.write_calibration_cache(memoryview(b"ranges"))
        return True


class IInt8EntropyCalibrator2:
    """The base of calibrators."""

    made = False

    def __init__(self) -> None:
        self.made = True
