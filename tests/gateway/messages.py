"""Messages of a type, good and bad, made from what msgspec knows of it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import inspect

from functions._kit.messages import new_id

HOSTILE: tuple[Any, ...] = (
    None, True, -1, 2**63, 1e308, "", "a b", "*", ">", "a.b", "../x", "\x00", "é\n", "x" * 100_000,
    "0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z", [], [[]], {}, {"": None},
)  # fmt: skip
"""Values that take the place of each field in turn."""


def example(kind: Any) -> Any:
    """A good message as plain objects, each optional field left out."""
    return _example(inspect.type_info(kind))


def _example(info: inspect.Type) -> Any:  # noqa: PLR0911, C901 - one per type
    match info:
        case inspect.StructType() | inspect.DataclassType():
            return {
                field.encode_name: _example(field.type) for field in info.fields if field.required
            }
        case inspect.UnionType():
            return _example(next(t for t in info.types if not isinstance(t, inspect.NoneType)))
        case inspect.LiteralType():
            return info.values[0]
        case inspect.EnumType():
            return next(iter(info.cls)).value
        case inspect.DateTimeType():
            return "2026-05-04T12:00:00Z"
        case inspect.VarTupleType() | inspect.ListType() | inspect.SetType():
            return [_example(info.item_type)]
        case inspect.TupleType():
            return [_example(item) for item in info.item_types]
        case inspect.DictType():
            return {}
        case inspect.IntType() | inspect.FloatType():
            return max(1, info.ge or 0)
        case inspect.BoolType():
            return False
        case inspect.BytesType():
            return ""
        case _:
            return new_id()


def unreadable(kind: Any, rng: random.Random) -> Iterator[bytes]:
    """Bytes that no message of the type can be."""
    good = msgspec.json.encode(example(kind))
    yield from (b"", b"null", b"7", b'"text"', b"[" * 100_000, b"\xff\xfe" * 20)
    yield good[: rng.randrange(1, len(good))]
    yield good + b"}"
    yield b" " * 900_000
    yield b'{"x":"' + b"x" * 900_000
    for _ in range(4):
        yield rng.randbytes(rng.randrange(1, 400))


def mistyped(kind: Any, rng: random.Random, count: int) -> Iterator[bytes]:
    """Good messages in which one field, however deep, holds something hostile."""
    good = example(kind)
    places = list(_places(good))
    for _ in range(count):
        changed = msgspec.json.decode(msgspec.json.encode(good))
        *way, last = rng.choice(places)
        inner = changed
        for step in way:
            inner = inner[step]
        inner[last] = rng.choice(HOSTILE)
        yield msgspec.json.encode(changed)


def _places(value: Any) -> Iterator[tuple[Any, ...]]:
    steps = value.items() if isinstance(value, dict) else enumerate(value)
    for step, inner in steps:
        yield (step,)
        if isinstance(inner, dict | list):
            yield from ((step, *way) for way in _places(inner))
