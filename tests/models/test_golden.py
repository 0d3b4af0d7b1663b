"""Golden answers: their file, what they tolerate, and that the published models give them."""

from __future__ import annotations

import asyncio
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from functions._kit.errors import Unprocessable
from gateway.adapters.inference import TritonInference
from gateway.models import golden as golden_module
from gateway.models.golden import Golden, Tolerance, read_golden, write_golden
from gateway.settings import CHECKOUT

FILES = sorted((CHECKOUT / "model_repository").glob("*/1/golden.npz"))


def example() -> Golden:
    return Golden(
        inputs={"image": np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)},
        outputs={
            "upscaled": np.full((1, 2, 2, 3), 100, np.uint8),
            "rows": np.zeros((1, 4, 2), np.float32),
            "text": np.array([[b"two words"]], object),
        },
        tolerances={
            "upscaled": Tolerance(max_abs=4, mean_abs=1),
            "rows": Tolerance(max_abs=[0.5, 0.001]),
        },
        made="by hand",
    )


def answers(**changed: Any) -> dict[str, Any]:
    return {name: array.copy() for name, array in example().outputs.items()} | changed


def test_a_file_keeps_everything_and_is_the_same_each_time() -> None:
    golden = read_golden(write_golden(example()))
    assert golden.compare(answers()) == []
    assert (golden.tolerances, golden.made) == (example().tolerances, "by hand")
    assert golden.inputs["image"].dtype == np.uint8
    assert golden.outputs["text"].tolist() == [[b"two words"]]
    assert write_golden(golden) == write_golden(example())


def changed(name: str, place: Any, by: float) -> dict[str, Any]:
    array = answers()[name]
    array[place] += np.array(by, array.dtype)
    return answers(**{name: array})


@pytest.mark.parametrize(
    ("found", "problems"),
    [
        (changed("upscaled", (0, 0, 0, 0), 4), []),
        (changed("upscaled", ..., 1), []),
        (changed("rows", (0, 0, 0), 0.4), []),
        (changed("upscaled", (0, 0, 0, 0), 5), ["`upscaled` differs by up to 5 (limit 4)"]),
        (changed("upscaled", ..., 2), ["`upscaled` differs by 2 on average (limit 1)"]),
        (changed("rows", (0, 0, 1), 0.4), ["`rows` differs by up to 0.4 (limit 0.001)"]),
        (changed("rows", (0, 0, 1), np.nan), ["`rows` has values that are no numbers"]),
        (
            answers(text=np.array([[b"other words"]], object)),
            ["`text` is 'other words' and must be 'two words'"],
        ),
        (
            answers(upscaled=np.zeros((1, 2, 3, 3), np.uint8)),
            ["`upscaled` has the shape [1, 2, 3, 3] and must have [1, 2, 2, 3]"],
        ),
        (
            answers(rows=np.zeros((1, 4, 2), np.float64)),
            ["`rows` is float64 and must be float32"],
        ),
        ({"upscaled": example().outputs["upscaled"]}, ["`rows` is missing", "`text` is missing"]),
    ],
)
def test_what_differs_is_said(found: dict[str, Any], problems: list[str]) -> None:
    assert example().compare(found) == problems


def archive(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def about(text: bytes) -> Any:
    return np.frombuffer(text, np.uint8)


PAIR = {"input/x": np.zeros(1), "output/y": np.zeros(1)}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (lambda: b"", "no archive of numpy"),
        (lambda: b"PK nonsense", "no archive of numpy"),
        (lambda: write_golden(example())[:-30], "no archive of numpy"),
        (lambda: archive(**PAIR | {"output/y": np.array([{}], object)}), "no archive of numpy"),
        (lambda: archive(**{"input/x": np.zeros(1)}), "at least one of each"),
        (lambda: archive(**PAIR | {"golden.json": about(b"{")}), "no archive of numpy"),
        (
            lambda: archive(**PAIR | {"golden.json": about(b'{"tolerances": {"z": {}}}')}),
            "tolerances for z",
        ),
        (
            lambda: archive(
                **PAIR | {"golden.json": about(b'{"tolerances": {"y": {"max_abs": [1, 2]}}}')}
            ),
            r"max_abs of y has 2 bounds for \[1\] columns",
        ),
        (
            lambda: archive(
                **PAIR | {"golden.json": about(b'{"tolerances": {"y": {"max_abs": -1}}}')}
            ),
            "no archive of numpy",
        ),
    ],
)
def test_a_file_that_is_none_is_refused(content: Callable[[], bytes], reason: str) -> None:
    with pytest.raises(Unprocessable, match=reason) as caught:
        read_golden(content())
    assert caught.value.code == "golden_invalid"


def test_a_file_is_small_packed_and_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("input/x.npy", bytes(10_000))
    monkeypatch.setattr(golden_module, "LARGEST_UNPACKED_BYTES", 9_000)
    with pytest.raises(Unprocessable, match="unpacks to 10000 bytes"):
        read_golden(file.getvalue())
    monkeypatch.setattr(golden_module, "LARGEST_BYTES", 10)
    with pytest.raises(Unprocessable, match="and may have 10"):
        read_golden(file.getvalue())


def test_every_published_model_has_golden_answers_and_they_are_small() -> None:
    models = {path.parent.name for path in CHECKOUT.glob("model_repository/*/config.pbtxt")}
    assert {file.parts[-3] for file in FILES} == models
    assert max(file.stat().st_size for file in FILES) < 100_000


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.parts[-3])
async def test_a_published_model_gives_its_golden_answers_and_no_other_ones(
    triton_url: str, file: Path
) -> None:
    golden = read_golden(await asyncio.to_thread(file.read_bytes))
    async with TritonInference(triton_url) as inference:
        answer = await inference.infer(await inference.model(file.parts[-3]), golden.inputs)
    assert golden.compare(answer) == []
    for name, array in answer.items():
        noise = np.random.default_rng(0).permutation(array.ravel()).reshape(array.shape)
        if array.size > 1:
            assert golden.compare(answer | {name: noise}), f"{name} may be anything"
