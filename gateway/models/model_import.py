"""Makes a model folder for Triton out of someone's own upscaler: .onnx, .pth or .safetensors."""

from __future__ import annotations

import importlib
import io
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from functions._kit.errors import Unprocessable
from gateway.models.layout import NAME, NAME_RULE
from gateway.models.model_graph import picture_graph, serve_as_is
from gateway.models.probing import probe_picture

OPSET = 17
# A quarter of one of 255 levels: what an exact translation may differ by, in the range 0..1.
LARGEST_DIFFERENCE = 0.25 / 255
# Two sizes, for a graph may have kept the size that it was traced with.
PROBES = ((64, 64), (48, 72))
# Halos are looked for in a picture of this height, cut in the middle of this width.
HALO_PROBE = (48, 256)
TILE_PIXELS = 512 * 512

CONFIG = """\
name: "{name}"
backend: "openvino"
default_model_filename: "model.onnx"
max_batch_size: 8
version_policy {{ specific {{ versions: [ 1 ] }} }}
input [ {{ name: "image" data_type: {kind} dims: [ -1, -1, 3 ] }} ]
output [ {{ name: "upscaled" data_type: {kind} dims: [ -1, -1, 3 ] }} ]
dynamic_batching {{ preferred_batch_size: [ 1 ] priority_levels: 3 default_priority_level: 2 }}
instance_group [ {{ kind: KIND_CPU count: 1 }} ]
"""
WARM_UP = """\
model_warmup [ { name: "tile" batch_size: 1 inputs { key: "image" value { data_type: TYPE_UINT8 \
dims: [ 64, 64, 3 ] zero_data: true } } } ]
"""
PARAMETER = 'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}\n'


@dataclass(frozen=True, slots=True)
class AddedModel:
    """What was made. `largest_difference`: ONNX against PyTorch, in 0..1; None for an .onnx."""

    name: str
    folders: tuple[Path, ...]
    scale: int
    halo: int
    architecture: str
    largest_difference: float | None


def add_model(
    file: Path,
    folder: Path,
    name: str | None = None,
    *,
    halo: int | None = None,
    max_tile_pixels: int | None = None,
    say: Callable[[str], None] = print,
) -> AddedModel:
    """Convert `file` and write FOLDER/NAME (and NAME-16bit where the network computes floats).

    `halo` is measured and `max_tile_pixels` derived from it where they are not given.
    Raises `Unprocessable` (`model_unsupported`, `model_differs`, `export_missing`,
    `model_name_invalid`).
    """
    name = checked_name(name or file.stem)
    difference: float | None = None
    architecture = "ONNX"
    if file.suffix == ".onnx":
        network = load_onnx(file)
    elif file.suffix in (".pth", ".safetensors"):
        network, architecture, difference = _from_checkpoint(file)
        say(f"{architecture}: ONNX differs from PyTorch by at most {difference:.2e} of 1")
    else:
        raise _unsupported(f"{file.name} is none of .onnx, .pth and .safetensors.")
    models = _picture_models(network, name)
    run = _runner(models[8])
    scale = _scale(run)
    halo = _measure_halo(run, scale) if halo is None else halo
    limit = max_tile_pixels or max(TILE_PIXELS, (6 * halo) ** 2)
    say(f"{name}: enlarges by {scale}, halo {halo}, tiles of up to {limit} pixels")
    folders = tuple(
        _write(folder, name if bits == 8 else f"{name}-16bit", model, bits, scale, halo, limit)
        for bits, model in models.items()
    )
    return AddedModel(name, folders, scale, halo, architecture, difference)


def checked_name(name: str) -> str:
    """The name, if a model may have it. Raises `Unprocessable` (`model_name_invalid`)."""
    if not NAME.fullmatch(name):
        raise Unprocessable(
            "model_name_invalid", f"name: {name!r} is not {NAME_RULE}.", field="name"
        )
    return name


def load_onnx(file: Path) -> onnx.ModelProto:
    """The model in the file. Raises `Unprocessable` (`model_unsupported`)."""
    try:
        model = onnx.load(str(file))
        onnx.checker.check_model(model)
    except Exception as error:  # onnx raises protobuf's errors, its own, and plain ones
        raise _unsupported(f"{file.name} is not a valid ONNX model: {error}") from error
    return model


def _picture_models(network: onnx.ModelProto, name: str) -> dict[int, onnx.ModelProto]:
    """The network with pictures in and out, by their bits."""
    served = serve_as_is(network, name)
    if served is not None:
        return {8: served}
    return {bits: picture_graph(network, name, bits) for bits in (8, 16)}


def _runner(model: onnx.ModelProto) -> Callable[[NDArray[np.uint8]], NDArray[np.int64]]:
    """Runs H x W x 3 bytes through the model, in ONNX Runtime."""
    session = extra("onnxruntime").InferenceSession(model.SerializeToString())

    def run(image: NDArray[np.uint8]) -> NDArray[np.int64]:
        try:
            (upscaled,) = session.run(None, {"image": image[None]})
        except Exception as error:  # ONNX Runtime's errors share no base class
            size = f"{image.shape[0]}x{image.shape[1]}"
            raise _unsupported(f"The network fails on a picture of {size}: {error}") from error
        return np.asarray(upscaled[0], np.int64)

    return run


def _scale(run: Callable[[NDArray[np.uint8]], NDArray[np.int64]]) -> int:
    """By how much the network enlarges, the same for every probe."""
    scales = set()
    for height, width in PROBES:
        shape = run(probe_picture(height, width)).shape
        scales.add((shape[0] / height, shape[1] / width, shape[2]))
    (first, *others) = scales
    if others or first[0] != first[1] or first[0] % 1 or first[0] < 1 or first[2] != 3:
        found = ", ".join(f"{high:g} x {wide:g}, {deep} channels" for high, wide, deep in scales)
        raise _unsupported(f"The network must enlarge by one whole factor; it gives: {found}.")
    return int(first[0])


def _measure_halo(run: Callable[[NDArray[np.uint8]], NDArray[np.int64]], scale: int) -> int:
    """The distance from a cut, in steps of 4, from which on no value differs by 2 levels of 255."""
    height, width = HALO_PROBE
    image = probe_picture(height, width)
    half = width // 2
    whole = run(image)[:, : half * scale]
    part = run(np.ascontiguousarray(image[:, :half]))
    wrong = np.flatnonzero((np.abs(whole - part) > 1).any(axis=(0, 2)))
    reach = half - int(wrong[0]) // scale if wrong.size else 0
    return max(8, -(-reach // 4) * 4)


def _from_checkpoint(file: Path) -> tuple[onnx.ModelProto, str, float]:
    """ONNX of a checkpoint, its architecture's name, and how far ONNX is from PyTorch."""
    torch, spandrel = extra("torch"), extra("spandrel")
    try:
        found = spandrel.ModelLoader(device="cpu").load_from_file(str(file))
    except Exception as error:  # a damaged file raises whatever its reader raises
        raise _unsupported(f"{file.name} is no checkpoint that spandrel knows: {error}") from error
    if not isinstance(found, spandrel.ImageModelDescriptor) or found.input_channels != 3:
        raise _unsupported(f"{file.name} ({found.architecture.name}) does not turn RGB into RGB.")
    module = found.model.eval().float()
    target = file.with_suffix(".onnx").name
    exported = _export(torch, module, target)
    session = extra("onnxruntime").InferenceSession(exported.SerializeToString())
    difference = 0.0
    for height, width in PROBES:
        planes = probe_picture(height, width).transpose(2, 0, 1)[None].astype(np.float32) / 255
        with torch.inference_mode():
            expected = module(torch.from_numpy(planes)).numpy()
        try:
            (answer,) = session.run(None, {"planes": planes})
        except Exception as error:  # ONNX Runtime's errors share no base class
            raise _unsupported(f"The export runs at one picture size only: {error}") from error
        if answer.shape != expected.shape:
            raise _unsupported("The export keeps the picture size that it was traced with.")
        difference = max(difference, float(np.abs(answer - expected).max()))
    if not difference <= LARGEST_DIFFERENCE:
        raise Unprocessable(
            "model_differs",
            f"The ONNX differs from PyTorch by {difference:.2e}, above {LARGEST_DIFFERENCE:.2e}: "
            "export the network yourself and add the .onnx.",
        )
    return exported, str(found.architecture.name), difference


def _export(torch: Any, module: Any, name: str) -> onnx.ModelProto:
    """Trace the module at one size, with sizes left open."""
    buffer = io.BytesIO()
    height, width = PROBES[0]
    open_axes = {0: "batch", 2: "height", 3: "width"}
    try:
        with torch.inference_mode(), warnings.catch_warnings():
            # The tracing exporter is deprecated; its successor needs onnxscript, a further package.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module,
                (torch.zeros(1, 3, height, width),),
                buffer,
                input_names=["planes"],
                output_names=["result"],
                dynamic_axes={"planes": open_axes, "result": open_axes},
                opset_version=OPSET,
                dynamo=False,
            )
    except Exception as error:  # torch raises a class of its own for each way to fail
        raise _unsupported(f"PyTorch cannot export {name}: {error}") from error
    return onnx.load_from_string(buffer.getvalue())


def _write(
    folder: Path,
    name: str,
    model: onnx.ModelProto,
    bits: int,
    scale: int,
    halo: int,
    limit: int,
) -> Path:
    parameters = {
        "capability": "upscale",
        "scale": scale,
        "halo": halo,
        "max_tile_pixels": limit,
        "bits": bits,
        "streams": 1,
        "precision": "bf16" if bits == 8 else "f32",
        "shapes": "each",
    }
    kind = "TYPE_UINT8" if bits == 8 else "TYPE_FP32"
    config = CONFIG.format(name=name, kind=kind) + (WARM_UP if bits == 8 else "")
    return write_model(folder, name, model, config, parameters)


def write_model(
    folder: Path,
    name: str,
    model: onnx.ModelProto,
    config: str,
    parameters: Mapping[str, object],
    **files: str,
) -> Path:
    """Write FOLDER/NAME: the model, its config, and text `files` by stem. Return its path."""
    made = folder / name
    (made / "1").mkdir(parents=True)
    (made / "1" / "model.onnx").write_bytes(model.SerializeToString(deterministic=True))
    lines = [PARAMETER.format(key=key, value=value) for key, value in parameters.items()]
    (made / "config.pbtxt").write_text(config + "".join(lines), encoding="utf-8")
    for stem, text in files.items():
        (made / f"{stem}.txt").write_text(text, encoding="utf-8")
    return made


def extra(module: str) -> Any:
    """A module of the extra `export`. Raises `Unprocessable` (`export_missing`)."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise Unprocessable(
            "export_missing",
            f"Adding this model needs {module}: install the extra by `just install-export`.",
        ) from error


def _unsupported(message: str) -> Unprocessable:
    return Unprocessable("model_unsupported", message, field="file")
