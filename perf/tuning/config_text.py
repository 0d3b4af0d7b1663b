"""A setting put into the text of a config.pbtxt, all else of which stays byte for byte."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from google.protobuf import text_format  # type: ignore[import-untyped]
from google.protobuf.descriptor import FieldDescriptor  # type: ignore[import-untyped]
from served.server import parameter
from tritonclient.grpc.model_config_pb2 import ModelConfig
from tuning.setting import Setting, put

LONGEST_LINE = 100
WRITTEN_FIRST = ("name", "kind")
OPENING, CLOSING = "{[<", "}]>"


class EditError(Exception):
    """The text is written in a way that cannot be edited; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Field:
    """A field of the message itself: from its name to the end of its value."""

    name: str
    start: int
    end: int


def edited(text: str, setting: Setting) -> str:
    """The text of the same configuration with another setting. Raises `EditError`."""
    before = text_format.Parse(text, ModelConfig())
    wanted = put(before, setting)
    changes: dict[str, str] = {}
    for name in ("max_batch_size", "instance_group", "dynamic_batching"):
        if getattr(before, name) != getattr(wanted, name):
            changes[name] = printed(wanted, name)
    fields = top_fields(text)
    for name, fresh in changes.items():
        text = _replaced(text, [field for field in top_fields(text) if field.name == name], fresh)
    if parameter(before, "streams") != parameter(wanted, "streams"):
        fresh = f'parameters {{ key: "streams" value {{ string_value: "{setting.streams}" }} }}'
        fields = [f for f in top_fields(text) if f.name == "parameters"]
        own = [f for f in fields if "streams" in _parsed(text[f.start : f.end]).parameters]
        text = _replaced(text, own, fresh)
    if _parsed(text) != wanted:
        raise EditError(
            "its config.pbtxt is written in a way that cannot be edited safely: write every field"
            " once, as the other models' files do"
        )
    return text


def _parsed(text: str) -> Any:
    return text_format.Parse(text, ModelConfig())


def _replaced(text: str, old: list[Field], fresh: str) -> str:
    """`fresh` in the place of the first of `old`, or on a line of its own at the end."""
    if not old:
        return text.rstrip("\n") + f"\n{fresh}\n"
    return text[: old[0].start] + fresh + text[old[0].end :]


def top_fields(text: str) -> list[Field]:
    """The fields of the message itself, in order; strings, comments and brackets are minded."""
    fields: list[Field] = []
    at = _after_space(text, 0)
    while at < len(text):
        start = at
        while at < len(text) and (text[at].isalnum() or text[at] == "_"):
            at += 1
        name = text[start:at]
        if not name:
            raise EditError(
                f"a field's name was expected where {text[start : start + 20]!r} stands"
            )
        at = _after_space(text, at)
        if text[at : at + 1] == ":":
            at = _after_space(text, at + 1)
        at = _after_value(text, at)
        fields.append(Field(name, start, at))
        at = _after_space(text, at)
    return fields


def _after_space(text: str, at: int) -> int:
    while at < len(text) and (text[at].isspace() or text[at] in "#,;"):
        at = _after_comment(text, at) if text[at] == "#" else at + 1
    return at


def _after_comment(text: str, at: int) -> int:
    end = text.find("\n", at)
    return len(text) if end < 0 else end


def _after_value(text: str, at: int) -> int:
    """Where a value ends: a bracket with all in it, a string, or a word."""
    depth = 0
    while at < len(text):
        letter = text[at]
        if letter in "\"'":
            at = _after_string(text, at)
        elif letter == "#":
            at = _after_comment(text, at)
        elif letter in OPENING or letter in CLOSING:
            depth += 1 if letter in OPENING else -1
            at += 1
        elif depth == 0 and (letter.isspace() or letter in ",;"):
            break
        else:
            at += 1
            continue
        if depth == 0:
            break
    return at


def _after_string(text: str, at: int) -> int:
    quote, at = text[at], at + 1
    while at < len(text) and text[at] != quote:
        at += 2 if text[at] == "\\" else 1
    return at + 1


def printed(message: Any, name: str) -> str:
    """A field as the house writes it: on one line, or a line for each part where that is long."""
    (descriptor,) = [field for field, _ in message.ListFields() if field.name == name]
    value = getattr(message, name)
    line = _field(descriptor, value)
    if len(line) <= LONGEST_LINE or descriptor.label == FieldDescriptor.LABEL_REPEATED:
        return line
    inside = [f"  {_field(part, found)}\n" for part, found in value.ListFields()]
    return f"{name} {{\n{''.join(inside)}}}"


def _field(descriptor: Any, value: Any) -> str:
    is_message = descriptor.type == FieldDescriptor.TYPE_MESSAGE
    if is_message and descriptor.message_type.GetOptions().map_entry:
        pairs = [
            f"{descriptor.name} {{ key: {_scalar(None, key)} value {_message(value[key])} }}"
            for key in sorted(value)
        ]
        return " ".join(pairs)
    if descriptor.label == FieldDescriptor.LABEL_REPEATED:
        parts = [_message(one) if is_message else _scalar(descriptor, one) for one in value]
        return f"{descriptor.name}{'' if is_message else ':'} [ {', '.join(parts)} ]"
    if is_message:
        return f"{descriptor.name} {_message(value)}"
    return f"{descriptor.name}: {_scalar(descriptor, value)}"


def _message(value: Any) -> str:
    parts = sorted(value.ListFields(), key=lambda part: part[0].name not in WRITTEN_FIRST)
    return "{ " + " ".join(_field(part, found) for part, found in parts) + " }"


def _scalar(descriptor: Any, value: Any) -> str:
    if descriptor is not None and descriptor.type == FieldDescriptor.TYPE_ENUM:
        return str(descriptor.enum_type.values_by_number[value].name)
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value) if isinstance(value, str) else str(value)
