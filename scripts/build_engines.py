"""Build TensorRT engines from the models' ONNX, and check that they are for this GPU.

    build_engines.py build [MODEL ...] [--int8 --pictures DIR]
    build_engines.py check [MODEL ...]
    build_engines.py operators [MODEL ...]

Run inside the image of triton/Dockerfile (`just build-engines`); `operators` runs anywhere. An
engine is named by GPU, TensorRT and precision and lies beside its ONNX with a manifest; the one
that Triton loads is a copy, `model.plan`, told by `engine.json`. What is built is only chosen.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent))  # where the parts lie

from engines.errors import EngineError
from engines.gpu import Cuda
from engines.make import Workshop
from engines.manifest import objections
from engines.operators import refusals_of
from engines.repository import engine_models
from engines.versions import ROOT, import_tensorrt


def main(words: list[str] | None = None) -> int:
    """Do what the words say; return the exit status."""
    given = parser().parse_args(words)
    try:
        return {"build": build, "check": check, "operators": operators}[given.command](given)
    except EngineError as error:
        print(f"engines: {error}", file=sys.stderr)
        return 1


def build(given: argparse.Namespace) -> int:
    """Build the engines that are missing, and choose them."""
    if given.int8 and given.pictures is None:
        raise EngineError("--int8 wants --pictures DIR: some hundred pictures like yours")
    if given.int8 and not given.models:
        raise EngineError("--int8 wants the names of the models: not every one survives it")
    trt = import_tensorrt()
    workshop = Workshop(
        trt=trt,
        cuda=Cuda(),
        cache=given.cache,
        workspace_bytes=int(given.workspace_gib * 2**30),
        pictures=given.pictures if given.int8 else None,
        force=given.force,
    )
    for model in engine_models(given.repository, given.models):
        for folder in model.served_versions():
            print(f"engines: {workshop.make(model, folder)}", flush=True)
    return 0


def check(given: argparse.Namespace) -> int:
    """Say why an engine must not be served here; what Triton's container asks before it starts."""
    models = engine_models(given.repository, given.models)
    trt, gpus = import_tensorrt(), Cuda().gpus()
    found = [
        line
        for model in models
        for folder in model.served_versions()
        for line in objections(model, folder, gpus, trt.__version__)
    ]
    if found:
        raise EngineError("\nengines: ".join(found))
    print(f"engines: {len(models)} models are for {gpus[0]} and TensorRT {trt.__version__}")
    return 0


def operators(given: argparse.Namespace) -> int:
    """Say what TensorRT's parser would refuse of the graphs."""
    found = [
        f"{model.name} version {folder.name}: {line}"
        for model in engine_models(given.repository, given.models)
        for folder in model.served_versions()
        for line in refusals_of(folder / "model.onnx")
    ]
    if found:
        raise EngineError("\nengines: ".join(found))
    print("engines: every operator is one that TensorRT's parser takes")
    return 0


def parser() -> argparse.ArgumentParser:
    """The words of the command line."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = made.add_subparsers(dest="command", required=True)
    for name, function in (("build", build), ("check", check), ("operators", operators)):
        command = commands.add_parser(name, help=function.__doc__)
        command.add_argument("models", nargs="*", metavar="MODEL", help="default: all engines")
        command.add_argument("--repository", type=Path, default=ROOT / "model_repository")
        if name == "build":
            command.add_argument("--int8", action="store_true", help="calibrate; not for FP32")
            command.add_argument("--pictures", type=Path, help="folder to calibrate with")
            command.add_argument("--cache", type=Path, default=ROOT / ".cache" / "engines")
            command.add_argument("--workspace-gib", type=float, default=8, help="per layer")
            command.add_argument("--force", action="store_true", help="build what is there too")
    return made


if __name__ == "__main__":
    sys.exit(main())
