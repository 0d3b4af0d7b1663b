"""Golden answers: inputs of a version, the outputs that it must give, and how far off they may be.

MODEL/N/golden.npz is an archive of numpy, without pickles:

  input/NAME    what to send, the batch included
  output/NAME   what must come back; texts as bytes
  golden.json   bytes of JSON: {"tolerances": {NAME: {"max_abs": 1, "mean_abs": 0.1}}, "made": ""}

`max_abs` bounds every difference; a list has one bound for each place on the last axis, as for the
columns of detections. `mean_abs` bounds the mean of all. An output without tolerances must be
equal.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from functions._kit.errors import Unprocessable

INPUT, OUTPUT, ABOUT = "input/", "output/", "golden.json"
LARGEST_BYTES, LARGEST_UNPACKED_BYTES = 32 << 20, 256 << 20

Bound = Annotated[float, Meta(ge=0)]
Arrays = Mapping[str, NDArray[Any]]


class Tolerance(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How far an output may be from the golden one, in the output's own unit."""

    max_abs: Bound | list[Bound] = 0.0
    mean_abs: Bound | None = None


class _About(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    tolerances: dict[str, Tolerance] = {}
    made: str = ""


class Golden(msgspec.Struct, frozen=True, kw_only=True):
    """One request and its answer."""

    inputs: dict[str, NDArray[Any]]
    outputs: dict[str, NDArray[Any]]
    tolerances: dict[str, Tolerance] = {}
    made: str = ""
    """How the outputs were computed, for people."""

    def compare(self, answers: Arrays) -> list[str]:
        """A clause for each thing that is not as it must be; empty for an answer that is."""
        return [
            f"`{name}` {problem}"
            for name, expected in self.outputs.items()
            for problem in _problems(
                answers.get(name), expected, self.tolerances.get(name, Tolerance())
            )
        ]


def read_golden(content: bytes) -> Golden:
    """The golden answers of a file. Raises `Unprocessable` (`golden_invalid`)."""
    if len(content) > LARGEST_BYTES:
        raise _invalid(f"it has {len(content)} bytes and may have {LARGEST_BYTES}")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > LARGEST_UNPACKED_BYTES:
            raise _invalid(f"it unpacks to {size} bytes and may to {LARGEST_UNPACKED_BYTES}")
        with np.load(io.BytesIO(content), allow_pickle=False) as archive_:
            arrays = {name: archive_[name] for name in archive_.files}
        about = msgspec.json.decode(
            arrays.pop(ABOUT, np.frombuffer(b"{}", np.uint8)).tobytes(), type=_About
        )
    except (zipfile.BadZipFile, ValueError, OSError, EOFError, msgspec.MsgspecError) as error:
        raise _invalid(f"it is no archive of numpy as docs/models.md describes: {error}") from error
    golden = Golden(
        inputs={
            name.removeprefix(INPUT): a for name, a in arrays.items() if name.startswith(INPUT)
        },
        outputs={
            name.removeprefix(OUTPUT): _texts(a)
            for name, a in arrays.items()
            if name.startswith(OUTPUT)
        },
        tolerances=about.tolerances,
        made=about.made,
    )
    if not golden.inputs or not golden.outputs:
        raise _invalid(f"it needs arrays named {INPUT}NAME and {OUTPUT}NAME, at least one of each")
    if unknown := sorted(set(golden.tolerances) - set(golden.outputs)):
        raise _invalid(f"it has tolerances for {', '.join(unknown)}, which it has no outputs for")
    for name, tolerance in golden.tolerances.items():
        columns, bounds = golden.outputs[name].shape[-1:], tolerance.max_abs
        if isinstance(bounds, list) and columns != (len(bounds),):
            raise _invalid(
                f"max_abs of {name} has {len(bounds)} bounds for {list(columns)} columns"
            )
    return golden


def write_golden(golden: Golden) -> bytes:
    """The file; the same bytes for the same answers."""
    about = _About(tolerances=golden.tolerances, made=golden.made)
    arrays: dict[str, Any] = {f"{INPUT}{name}": a for name, a in golden.inputs.items()}
    arrays |= {f"{OUTPUT}{name}": _bytes(array) for name, array in golden.outputs.items()}
    arrays[ABOUT] = np.frombuffer(msgspec.json.encode(about), np.uint8)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:  # np.savez writes the time of day into it
        for name, array in arrays.items():
            content = io.BytesIO()
            np.save(content, array, allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy")
            archive.writestr(entry, content.getvalue(), zipfile.ZIP_DEFLATED)
    return file.getvalue()


def _problems(found: NDArray[Any] | None, expected: NDArray[Any], allowed: Tolerance) -> list[str]:
    if found is None:
        return ["is missing"]
    if found.shape != expected.shape:
        return [f"has the shape {list(found.shape)} and must have {list(expected.shape)}"]
    if expected.dtype.kind not in "buif":
        return (
            []
            if (found == expected).all()
            else [f"is {_shown(found)} and must be {_shown(expected)}"]
        )
    if found.dtype != expected.dtype:
        return [f"is {found.dtype} and must be {expected.dtype}"]
    if not np.isfinite(found).all():
        return ["has values that are no numbers"]
    difference = np.abs(found.astype(np.float64) - expected.astype(np.float64))
    problems = []
    for column, limit in _columns(difference, allowed.max_abs):
        worst = float(column.max(initial=0))
        if worst > limit:
            problems.append(f"differs by up to {worst:.4g} (limit {limit:g})")
    mean = float(difference.mean()) if difference.size else 0.0
    if allowed.mean_abs is not None and mean > allowed.mean_abs:
        problems.append(f"differs by {mean:.4g} on average (limit {allowed.mean_abs:g})")
    return problems


def _columns(
    difference: NDArray[np.float64], limits: float | list[float]
) -> list[tuple[NDArray[np.float64], float]]:
    """The differences with the bound of each."""
    if not isinstance(limits, list):
        return [(difference, limits)]
    return [(difference[..., place], limit) for place, limit in enumerate(limits)]


def _texts(array: NDArray[Any]) -> NDArray[Any]:
    """Bytes as Triton answers them."""
    return array.astype(object) if array.dtype.kind == "S" else array


def _bytes(array: NDArray[Any]) -> NDArray[Any]:
    """Bytes as numpy keeps them without pickles."""
    return array.astype(np.bytes_) if array.dtype.kind == "O" else array


def _shown(array: NDArray[Any]) -> str:
    texts = [t.decode(errors="replace") if isinstance(t, bytes) else str(t) for t in array.flat]
    return repr(" ".join(texts))


def _invalid(message: str) -> Unprocessable:
    return Unprocessable("golden_invalid", f"golden: {message}.", field="golden")
