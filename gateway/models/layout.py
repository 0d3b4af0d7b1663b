"""Triton's layout of a model repository, by the paths of its files."""

from __future__ import annotations

import re
from collections.abc import Iterable

from gateway.models.files import PARTIAL

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""What a model may be called."""
NAME_RULE = "letters, digits, '.', '_' and '-', at most 64, a letter or digit first"
CONFIG, CONFIGS = "config.pbtxt", "configs"
RECORD, GOLDEN = "version.json", "golden.npz"
NOTES = frozenset({RECORD, GOLDEN})
"""Files of a version that say something of it and are not served."""
ENGINES = re.compile(r"(model\..*\.json|engine\.json|calibration\..*|.*\.plan)")
"""What scripts/build_engines.py makes of a version's ONNX on one machine."""
NUMBER = re.compile(r"[1-9]\d*")
"""The folder of a version."""
REMOVED = "removed.json"
"""File of the repository: the highest number that was ever removed of each model."""


def model_names(paths: Iterable[str]) -> list[str]:
    """Folders that are whole and have a config.pbtxt."""
    there = set(paths)
    names = {path.partition("/")[0] for path in there if path.endswith(f"/{CONFIG}")}
    return sorted(name for name in names if is_model(name, there))


def is_model(model: str, paths: Iterable[str]) -> bool:
    """Whether the folder is there, whole, and has a config.pbtxt."""
    there = set(paths)
    return f"{model}/{CONFIG}" in there and f"{model}/{PARTIAL}" not in there


def version_numbers(model: str, paths: Iterable[str]) -> set[str]:
    """The numbers of all folders of versions, whole or not."""
    parts = (path.removeprefix(f"{model}/").split("/") for path in paths)
    return {part[0] for part in parts if len(part) > 1 and NUMBER.fullmatch(part[0])}


def whole_versions(model: str, paths: Iterable[str]) -> list[str]:
    """Numbers of the folders that are whole and hold more than notes, ascending."""
    there = list(paths)
    whole = []
    for number in version_numbers(model, there):
        start = f"{model}/{number}/"
        inside = {path.removeprefix(start) for path in there if path.startswith(start)}
        if PARTIAL not in inside and content_of(inside):
            whole.append(number)
    return sorted(whole, key=int)


def content_of(paths: Iterable[str]) -> set[str]:
    """Those of a version's files that make it what it is.

    Notes do not, nor do engines that were built from what else there is.
    """
    files = {path for path in paths if path not in NOTES}
    return {path for path in files if ENGINES.fullmatch(path) is None} or files


def is_config(model: str, path: str) -> bool:
    """Whether Triton may read the path as a configuration of the model."""
    variant = re.fullmatch(rf"{re.escape(model)}/{CONFIGS}/[^/]+\.pbtxt", path)
    return path == f"{model}/{CONFIG}" or variant is not None


def used_config(model: str, paths: Iterable[str], name: str) -> str:
    """The path of configs/NAME.pbtxt where there is one, else of config.pbtxt, as Triton has it."""
    variant = f"{model}/{CONFIGS}/{name}.pbtxt"
    return variant if name and variant in set(paths) else f"{model}/{CONFIG}"


def is_beside(model: str, path: str) -> bool:
    """Whether the path is a file of the model's own folder that is no configuration."""
    name = path.removeprefix(f"{model}/")
    return "/" not in name and name not in (CONFIG, PARTIAL)
