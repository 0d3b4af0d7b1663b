"""Adds versions to the model repository: out of a network's file, or of a folder for Triton."""

from __future__ import annotations

import asyncio
import dataclasses
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from functions._kit.errors import Conflict, Unprocessable
from gateway.models.config import parse_config
from gateway.models.golden import read_golden, write_golden
from gateway.models.layout import CONFIG, GOLDEN, NUMBER
from gateway.models.probing import probe_answers
from gateway.models.repository import ModelRepository
from gateway.models.source import Source, read_folder

NETWORKS = (".onnx", ".pth", ".safetensors")
"""Files that are converted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """How to add something. Labels and limits are for detectors."""

    name: str | None = None
    """The model; by the source's own name unless given."""
    capability: str = "upscale"
    labels: Path | None = None
    min_score: float = 0.2
    iou: float = 0.6
    golden: Path | None = None
    """A file of golden answers; computed unless given or in the source."""


@dataclass(frozen=True, slots=True)
class Added:
    """A version that was added. `without_golden` says why it has no golden answers."""

    model: str
    version: str
    without_golden: str = ""


async def add(
    repository: ModelRepository,
    place: Path,
    origin: str,
    wanted: Wanted,
    *,
    say: Callable[[str], None] = print,
) -> list[Added]:
    """Add what lies at `place`, which came from `origin`; nothing else is loaded or served by it.

    A network of floats becomes two models, NAME and NAME-16bit. Raises as `add_version`,
    `add_model` and `add_detector` do, and `Unprocessable` (`golden_invalid`, `name_needed`).
    """
    with tempfile.TemporaryDirectory() as scratch:
        sources = await asyncio.to_thread(_sources, place, origin, wanted, Path(scratch), say)
        if wanted.golden is not None and len(sources) > 1:
            raise Unprocessable(
                "golden_invalid",
                f"golden: it cannot be that of all of {', '.join(sources)}: add them as folders,"
                " each with its own golden.npz.",
                field="golden",
            )
        missing = {}
        for name, source in sources.items():
            try:
                await repository.check_addable(name, source)
            except Conflict as error:
                if error.code != "version_exists" or len(sources) == 1:
                    raise
                say(error.message)  # its twin may still be missing
                continue
            missing[name] = source
        if not missing:
            raise Conflict("version_exists", f"{origin} is there already, whole.", field="source")
        return [await _add(repository, name, source, wanted) for name, source in missing.items()]


async def _add(repository: ModelRepository, name: str, source: Source, wanted: Wanted) -> Added:
    reason = ""
    files = dict(source.files)
    if wanted.golden is not None:
        files[GOLDEN] = await asyncio.to_thread(wanted.golden.read_bytes)
    if GOLDEN in files:
        given = files[GOLDEN]
        read_golden(
            given if isinstance(given, bytes) else await asyncio.to_thread(given.read_bytes)
        )
    else:
        found = await _probed(repository, name, source)
        if isinstance(found, bytes):
            files[GOLDEN] = found
        else:
            reason = found
    version = await repository.add_version(name, dataclasses.replace(source, files=files))
    return Added(name, version, reason)


async def _probed(repository: ModelRepository, name: str, source: Source) -> bytes | str:
    """A file of golden answers for the source, or why there is none."""
    text = source.configs.get(CONFIG) or await repository.config(name)
    served = source.served()
    folders = {path.parent for path in served.values() if isinstance(path, Path)}
    if not folders:
        return "its files lie in no folder"
    folder = min(folders, key=lambda path: len(path.parts))
    found = await probe_answers(folder, parse_config(text))
    return found if isinstance(found, str) else write_golden(found)


def _sources(
    place: Path, origin: str, wanted: Wanted, scratch: Path, say: Callable[[str], None]
) -> dict[str, Source]:
    """What is to be added, by the name of its model."""
    if place.is_file():
        folders = _converted(place, wanted, scratch, say)
        return {
            folder.name: dataclasses.replace(read_folder(folder, origin), generated=True)
            for folder in folders
        }
    source = read_folder(place, origin)
    if CONFIG in source.configs:
        own = parse_config(source.configs[CONFIG], f"{origin}/{CONFIG}").name
        return {wanted.name or own or place.name: source}
    if wanted.name is None and not NUMBER.fullmatch(place.name):
        raise Unprocessable(
            "name_needed",
            f"name: {origin} has no {CONFIG}, so it is a version of a model that there is already:"
            " say of which by --name.",
            field="name",
        )
    return {wanted.name or place.parent.name: source}


def _converted(
    file: Path, wanted: Wanted, scratch: Path, say: Callable[[str], None]
) -> tuple[Path, ...]:
    """The models' folders that a network becomes."""
    if file.suffix not in NETWORKS:
        raise Unprocessable(
            "model_unsupported",
            f"{file.name} is none of {', '.join(NETWORKS)}, nor a folder.",
            field="source",
        )
    if wanted.capability == "detect":
        from gateway.models.detector_import import add_detector  # noqa: PLC0415 - needs the extra

        if wanted.labels is None:
            raise Unprocessable(
                "labels_invalid",
                "labels: --capability detect needs --labels FILE, one name a line.",
                field="labels",
            )
        limits = {"min_score": wanted.min_score, "iou": wanted.iou}
        return (add_detector(file, scratch, wanted.labels, wanted.name, **limits, say=say).folder,)
    from gateway.models.model_import import add_model  # noqa: PLC0415

    return add_model(file, scratch, wanted.name, say=say).folders
