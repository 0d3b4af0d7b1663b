"""Reads Triton's config.pbtxt, and edits the one line of it that says which versions are served."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from google.protobuf import text_format  # type: ignore[import-untyped]
from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelParameter

from functions._kit.errors import Unprocessable

POLICY = "version_policy"
TOKEN = re.compile(r'"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\'|#[^\n]*|[{}<>]|\w+')
TUNED = frozenset({"instance_group", "dynamic_batching", "optimization", "model_warmup"})
TUNED_PARAMETERS = frozenset({"streams", "precision", "shapes", "shapes_kept", "max_tile_pixels"})
"""What says how a model runs, not what it is."""
OPEN, CLOSE = "{<", "}>"


def parse_config(text: str, where: str = "config.pbtxt") -> ModelConfig:
    """The configuration. Raises `Unprocessable` (`config_invalid`) with line, column and reason."""
    try:
        return text_format.Parse(text, ModelConfig())
    except text_format.ParseError as error:
        raise config_invalid(f"{where}:{error}") from error


def config_invalid(message: str) -> Unprocessable:
    """The error of a configuration that Triton would not take."""
    return Unprocessable("config_invalid", f"{message}.", field="config")


def admitted_versions(config: ModelConfig, versions: Sequence[str]) -> list[str]:
    """Which of the versions that there are Triton loads, by number, as its manual says."""
    match config.version_policy.WhichOneof("policy_choice"):
        case "specific":
            named = {str(number) for number in config.version_policy.specific.versions}
            return [version for version in versions if version in named]
        case "all":
            return list(versions)
        case _:
            count = config.version_policy.latest.num_versions or 1
            return list(versions)[-count:]


def with_policy(text: str, versions: Sequence[str]) -> str:
    """The text with the versions to load in its policy, and else not a byte changed."""
    policy = f"{POLICY} {{ specific {{ versions: [ {', '.join(versions)} ] }} }}"
    span = _policy_span(text)
    if span is None:
        end = "\n" if text and not text.endswith("\n") else ""
        return f"{text}{end}{policy}\n"
    return text[: span[0]] + policy + text[span[1] :]


def with_name(text: str, name: str) -> str:
    """The text with another name for the model, and else not a byte changed."""
    depth = 0
    for token in TOKEN.finditer(text):
        depth += _step(token[0])
        if depth == 0 and token[0] == "name":
            value = re.compile(r"""\s*:\s*(?:"[^"]*"|'[^']*')""").match(text, token.end())
            if value is not None:
                return f'{text[: token.end()]}: "{name}"{text[value.end() :]}'
    return f'name: "{name}"\n{text}'


def differing_fields(
    ours: ModelConfig, theirs: ModelConfig, *, generated: bool = False
) -> list[str]:
    """Fields that two configurations do not share, but for name and versions.

    Parameters are given by their key. Where `theirs` was `generated`, how a model is tuned may
    differ, and its halo may be smaller.
    """
    found = []
    for name in ModelConfig.DESCRIPTOR.fields_by_name:
        mine, other = getattr(ours, name), getattr(theirs, name)
        if name in ("name", POLICY) or mine == other or (generated and name in TUNED):
            continue
        if name != "parameters":
            found.append(name)
            continue
        keys = {key for key in {*mine, *other} if mine.get(key) != other.get(key)}
        if generated:
            keys -= TUNED_PARAMETERS
            if _number(other, "halo") <= _number(mine, "halo"):
                keys.discard("halo")
        found += [f"parameters.{key}" for key in sorted(keys)]
    return found


def canonical(config: ModelConfig) -> bytes:
    """The same bytes for configurations that differ in the versions to load and in tuning alone."""
    copy = ModelConfig()
    copy.CopyFrom(config)
    for name in (POLICY, *TUNED):
        copy.ClearField(name)
    for name in TUNED_PARAMETERS & copy.parameters.keys():
        del copy.parameters[name]
    return bytes(copy.SerializeToString(deterministic=True))


def _policy_span(text: str) -> tuple[int, int] | None:
    """Where `version_policy` and its braces stand at the top level of the text."""
    depth, start = 0, None
    for token in TOKEN.finditer(text):
        if depth == 0 and token[0] == POLICY:
            start = token.start()
        depth += _step(token[0])
        if start is not None and depth == 0 and token[0] in CLOSE:
            return start, token.end()
    return None


def _step(token: str) -> int:
    return (token in OPEN) - (token in CLOSE)


def _number(parameters: Mapping[str, ModelParameter], key: str) -> float:
    """A parameter that is a number; 0 for one that is missing or is none."""
    try:
        return float(parameters[key].string_value) if key in parameters else 0.0
    except ValueError:
        return 0.0
