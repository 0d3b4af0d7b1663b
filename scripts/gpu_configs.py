"""Write MODEL/configs/tensorrt.pbtxt: what Triton reads with `--model-config-name=tensorrt`.

`gpu_configs.py [MODEL ...]`, all that have a config.pbtxt where none is named. Tensors, priorities
and parameters come from config.pbtxt, so run this again when that changes; what is for the GPU
alone stands here. Models that gain nothing on a GPU are served as on a CPU, by the same backend.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from google.protobuf import text_format  # type: ignore[import-untyped]
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig

from functions.media.upscale.tiles import plan

REPOSITORY = Path(__file__).resolve().parents[1] / "model_repository"
OWN = ("streams", "precision", "shapes", "shapes_kept", "max_tile_side")
"""Parameters that a GPU has its own values of."""

ROOM, SIDE_STEP = 1.4, 128

PHOTOS = {"1080p": (1080, 1920), "4K": (2160, 3840)}

NO_GRAPHS_DEEP = "CUDA graphs are off: a tile is long kernels, launching them takes no time beside."
NO_GRAPHS_RARE = "CUDA graphs are off: photos of 16 bits are rare, and each graph holds memory."
NO_GRAPHS_NMS = (
    "CUDA graphs are off: NMS finds now more and now fewer boxes, and a graph has fixed shapes."
)
GRAPHS = "CUDA graphs: of the tiles of landscape photos of 1080p and 4K; others are served without."


@dataclass(frozen=True)
class Setting:
    """What a model has on a GPU."""

    batch: int
    instances: int
    streams: int
    precision: str
    reason: str
    graphs: bool = False
    batching: str = ""


LIGHT = Setting(2, 2, 2, "fp16", GRAPHS, graphs=True)
LIGHT_16 = Setting(1, 1, 2, "fp32", NO_GRAPHS_RARE)
DEEP = Setting(1, 1, 1, "fp16", NO_GRAPHS_DEEP)
DEEP_16 = Setting(1, 1, 1, "fp32", NO_GRAPHS_RARE)
DETECTOR = Setting(
    32, 2, 16, "fp16", NO_GRAPHS_NMS,
    batching="preferred_batch_size: [ 8, 16, 32 ] max_queue_delay_microseconds: 2000 ",
)  # fmt: skip

ON_THE_CPU = {
    "silero-vad": "A small recurrent network, each step of which waits for the one before.",
    "moonshine-tiny-en": "Our backend `speech` batches the decoder's steps across requests.",
}


def main(words: list[str] | None = None) -> int:
    """Write the files; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", metavar="MODEL")
    parser.add_argument("--repository", type=Path, default=REPOSITORY)
    given = parser.parse_args(words)
    names = given.models or sorted(
        path.parent.name for path in given.repository.glob("*/config.pbtxt")
    )
    for name in names:
        file = given.repository / name / "configs" / "tensorrt.pbtxt"
        try:
            text = for_gpu((given.repository / name / "config.pbtxt").read_text())
        except (OSError, ValueError, text_format.ParseError) as error:
            print(f"gpu-configs: {name}: {error}", file=sys.stderr)
            return 1
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    print(f"gpu-configs: {len(names)} written")
    return 0


def for_gpu(text: str) -> str:
    """The configuration for a GPU, from that for a CPU. Raises ValueError for another kind."""
    config = text_format.Parse(text, ModelConfig())
    head = "# Written by `just gpu-configs` from ../config.pbtxt and scripts/gpu_configs.py.\n"
    if config.name in ON_THE_CPU:
        return f"{head}# On the CPU there too. {ON_THE_CPU[config.name]}\n{text}"
    keys = sorted(config.parameters, key=lambda key: text.index(f'"{key}"'))  # a map has no order
    parameters = {key: config.parameters[key].string_value for key in keys}
    setting = setting_of(config.name, parameters)
    source = config.input[0]
    shapes = warmup_shapes(parameters, setting, source)
    if config.max_batch_size == 1:  # the network itself takes one at a time
        setting = replace(setting, batch=1, batching="")
    kind = DataType.Name(source.data_type)
    lines = [
        f"{head}# {setting.reason}",
        f'name: "{config.name}"',
        'platform: "tensorrt_plan"',
        'default_model_filename: "model.plan"',
        f"max_batch_size: {setting.batch}",
        *versions(config),
        *(
            f"{label} [ {tensor(item)} ]"
            for label, item in (("input", source), ("output", config.output[0]))
        ),
        f"dynamic_batching {{ {setting.batching}{priorities(config)} }}",
        f"instance_group [ {{ kind: KIND_GPU count: {setting.instances} }} ]",
        "optimization { cuda {",
        f"  graphs: {str(setting.graphs).lower()}",
        "  output_copy_stream: true",
        *(graph(source.name, shape, batch) for shape, batch in graph_shapes(parameters, setting)),
        "} }",
        *(parameter(key, value) for key, value in own(parameters, setting).items()),
        *(warmup(source.name, kind, shape, setting) for shape in shapes),
    ]
    return "\n".join(lines) + "\n"


def setting_of(name: str, parameters: dict[str, str]) -> Setting:
    """By what a model is; an upscaler that looks far is deep."""
    if parameters.get("capability") == "detect":
        return DETECTOR
    if "max_tile_pixels" not in parameters:
        raise ValueError(f"{name} is neither a detector nor an upscaler: write its file by hand")
    fine = parameters.get("bits") == "16"
    if int(parameters["halo"]) < 32:
        return LIGHT_16 if fine else LIGHT
    return DEEP_16 if fine else DEEP


def own(parameters: dict[str, str], setting: Setting) -> dict[str, str]:
    """The parameters, those for the GPU replaced."""
    shared = {key: value for key, value in parameters.items() if key not in OWN}
    shared |= {"streams": str(setting.streams), "precision": setting.precision}
    side = side_of(parameters)
    return shared | ({"max_tile_side": str(side)} if side else {})


def side_of(parameters: dict[str, str]) -> int:
    """The largest side of a tile, which bounds the engine's memory; 0 for what is no upscaler.

    Room for tiles a good way from the square, at less than twice the pixels of the largest tile.
    """
    room = ROOM * int(parameters.get("max_tile_pixels", "0"))
    return math.ceil(math.sqrt(room) / SIDE_STEP) * SIDE_STEP


def warmup_shapes(
    parameters: dict[str, str], setting: Setting, source: ModelConfig
) -> list[tuple[int, int]]:
    """Height and width of what is sent before the model is ready; the first is what comes most."""
    if source.dims[0] != -1:
        return [(int(source.dims[0]), int(source.dims[1]))]
    if side_of(parameters):
        return [tile(parameters, setting, PHOTOS["1080p"])]
    longest, step = int(parameters["longest_side"]), int(parameters["multiple_of"])
    return [(-(-longest * 9 // 16 // step) * step, longest), (longest, longest)]


def graph_shapes(parameters: dict[str, str], setting: Setting) -> list[tuple[tuple[int, int], int]]:
    """Tiles and batches that get a CUDA graph."""
    if not setting.graphs:
        return []
    tiles = dict.fromkeys(tile(parameters, setting, photo) for photo in PHOTOS.values())
    return [(shape, batch) for shape in tiles for batch in range(1, setting.batch + 1)]


def tile(parameters: dict[str, str], setting: Setting, photo: tuple[int, int]) -> tuple[int, int]:
    """Height and width of the tiles of a photo."""
    tiles = plan(
        *photo,
        halo=int(parameters["halo"]),
        max_tile_pixels=int(parameters["max_tile_pixels"]),
        max_tile_side=side_of(parameters),
        parallel=setting.streams,
    )
    return tiles.tile_height, tiles.tile_width


def tensor(item: ModelConfig) -> str:
    """An input or output."""
    dims = ", ".join(map(str, item.dims))
    label = getattr(item, "label_filename", "")
    more = f" label_filename: {json.dumps(label)}" if label else ""
    kind = DataType.Name(item.data_type)
    return f'{{ name: "{item.name}" data_type: {kind} dims: [ {dims} ]{more} }}'


def versions(config: ModelConfig) -> list[str]:
    """Which versions Triton loads, where the configuration says."""
    if not config.HasField("version_policy"):
        return []
    if config.version_policy.HasField("specific"):
        numbers = ", ".join(map(str, config.version_policy.specific.versions))
        return [f"version_policy {{ specific {{ versions: [ {numbers} ] }} }}"]
    policy = text_format.MessageToString(config.version_policy, as_one_line=True)
    return [f"version_policy {{ {policy} }}"]


def priorities(config: ModelConfig) -> str:
    """The levels of priority, as on a CPU."""
    batching = config.dynamic_batching
    return (
        f"priority_levels: {batching.priority_levels}"
        f" default_priority_level: {batching.default_priority_level}"
    )


def parameter(key: str, value: str) -> str:
    """One line."""
    return f'parameters {{ key: "{key}" value {{ string_value: {json.dumps(value)} }} }}'


def graph(name: str, shape: tuple[int, int], batch: int) -> str:
    """The specification of a CUDA graph."""
    dims = f"dim: [ {shape[0]}, {shape[1]}, 3 ]"
    return f'  graph_spec {{ batch_size: {batch} input {{ key: "{name}" value {{ {dims} }} }} }}'


def warmup(name: str, kind: str, shape: tuple[int, int], setting: Setting) -> str:
    """A request before the model is ready."""
    dims = f"{shape[0]}, {shape[1]}, 3"
    data = "random_data" if kind == "TYPE_UINT8" else "zero_data"
    return (
        f'model_warmup {{ name: "{shape[1]} x {shape[0]}" batch_size: {setting.batch} inputs {{ '
        f'key: "{name}" value {{ data_type: {kind} dims: [ {dims} ] {data}: true }} }} }}'
    )


if __name__ == "__main__":
    sys.exit(main())
