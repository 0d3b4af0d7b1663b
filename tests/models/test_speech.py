"""Speech recognition: as converted, as served, and how well it hears."""

from __future__ import annotations

import asyncio
import re
import wave
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import pytest_asyncio
from numpy.typing import NDArray
from onnx import numpy_helper

from functions._kit.capabilities import check_served
from functions._kit.errors import JobFailed
from functions._kit.ports import ServedModel
from functions.audio._cutter import Cutter
from gateway.adapters.inference import TritonInference
from gateway.models.ort_format import read_weights
from tests.models.scripts import script

ROOT = Path(__file__).parents[2]
NAME = "moonshine-tiny-en"
VERSION = ROOT / "model_repository" / NAME / "1"
VAD = ROOT / "model_repository" / "silero-vad" / "1" / "model.onnx"
RATE, WINDOW, CONTEXT = 16_000, 512, 64
STATE = (1, 1, 128)
START, END = 1, 2
TWO_CITIES = """
    It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of
    foolishness, it was the epoch of belief, it was the epoch of incredulity, it was the season of
    Light, it was the season of Darkness, it was the spring of hope, it was the winter of despair,
    we had everything before us, we had nothing before us, we were all going direct to Heaven, we
    were all going direct the other way - in short, the period was so far like the present period,
    that some of its noisiest authorities insisted on its being received, for good or for evil, in
    the superlative degree of comparison only.
"""

Samples = NDArray[np.int16]
# Two engines, or one engine with other rows in the batch, add in different orders.
LOGARITHM_TOLERANCE = 1e-3

BUILD = script("scripts/build_models.py")
CONVERTER = script("scripts/models/moonshine_to_onnx.py")
DECODING = script("triton/backends/speech/decoding.py")
WAITING = script("triton/backends/speech/waiting.py")


def weights() -> Path:
    return Path(BUILD.fetch_speech_weights() / BUILD.MOONSHINE)


@cache
def recording(name: str) -> Samples:
    """A recording of the wheel, at 16 kHz; from 48 kHz through a windowed sinc."""
    with wave.open(str(weights() / f"{name}.wav")) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), np.int16)
        samples = samples.reshape(-1, file.getnchannels())[:, 0]
        factor = file.getframerate() // RATE
    if factor == 1:
        return samples
    taps = np.arange(-60, 61)
    kernel = np.sinc(taps / factor) / factor * np.hanning(taps.size)
    return np.convolve(samples, kernel, "same")[::factor].round().astype(np.int16)


def long_recording() -> Samples:
    """Fifteen seconds of speech."""
    return recording("two_cities")[: 15 * RATE]


def session(path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options)


def windows(samples: Samples) -> NDArray[np.float32]:
    """What the speech detector takes: windows with the end of the one before, from silence on."""
    whole = samples[: samples.size // WINDOW * WINDOW]
    wave_ = np.concatenate([np.zeros(CONTEXT), whole]).astype(np.float32) / 2**15
    view = np.lib.stride_tricks.sliding_window_view(wave_, CONTEXT + WINDOW)
    return np.ascontiguousarray(view[::WINDOW])


def detect(parts: NDArray[np.float32]) -> Any:
    state = np.zeros(STATE, np.float32)
    return session(VAD).run(None, {"input": parts, "h": state, "c": state})


@cache
def pieces(name: str) -> tuple[Samples, ...]:
    """A recording, cut at its silences."""
    samples, cutter = recording(name), Cutter()
    spans = [*cutter.feed(detect(windows(samples))[0].tolist()), *cutter.finish()]
    return tuple(samples[span.start * WINDOW : span.end * WINDOW] for span in spans)


def all_pieces() -> list[Samples]:
    return [*pieces("two_cities"), *pieces("beckett")]


@dataclass
class Bare:
    """The served files in ONNX Runtime, one recording alone, one token after the other."""

    encoder: Any = field(default_factory=lambda: session(VERSION / "encoder.onnx"))
    decoder: Any = field(default_factory=lambda: session(VERSION / "decoder.onnx"))

    def tokens(self, samples: Samples) -> tuple[list[int], float]:
        """The tokens and the mean logarithm of their probabilities."""
        keys, values = self.encoder.run(None, {"audio": samples[None]})
        feeds = {"lengths": np.array([keys.shape[-1]])}
        for layer in range(len(keys)):
            feeds[f"keys.{layer}"] = keys[layer][None]
            feeds[f"values.{layer}"] = values[layer][None]
            feeds[f"past_keys.{layer}"] = np.zeros((1, 8, 36, 0), np.float32)
            feeds[f"past_values.{layer}"] = np.zeros((1, 8, 0, 36), np.float32)
        found, logarithms = [START], []
        while found[-1] != END:
            feeds["tokens"] = np.array([found[-1]])
            names = [output.name for output in self.decoder.get_outputs()]
            results = dict(zip(names, self.decoder.run(names, feeds), strict=True))
            found.append(int(results["next"][0]))
            logarithms.append(float(results["log_probabilities"][0]))
            feeds |= {n.replace("present", "past"): a for n, a in results.items() if "present" in n}
        return found[1:-1], float(np.mean(logarithms))


@cache
def bare() -> list[tuple[list[int], float]]:
    """What the files alone hear in each piece."""
    model = Bare()
    return [model.tokens(piece) for piece in all_pieces()]


@dataclass(frozen=True)
class Served:
    inference: TritonInference
    model: ServedModel

    async def hear(self, samples: Samples, priority: int = 2) -> dict[str, Any]:
        return await self.inference.infer(self.model, {"audio": samples[None]}, priority=priority)

    async def answered(self) -> int:
        """Requests that the model has answered with words."""
        statistics = await self.inference._client.get_inference_statistics(NAME)
        (model,) = statistics.model_stats
        return int(model.inference_stats.success.count)


@pytest_asyncio.fixture
async def served(triton_url: str) -> AsyncIterator[Served]:
    async with TritonInference(triton_url) as inference:
        yield Served(inference, await inference.model(NAME))


def assert_same(answer: dict[str, Any], expected: tuple[list[int], float]) -> None:
    assert answer["tokens"][0].tolist() == expected[0]
    assert answer["log_probability"][0, 0] == pytest.approx(expected[1], abs=LOGARITHM_TOLERANCE)


def text_of(answer: dict[str, Any]) -> str:
    return str(answer["text"][0, 0].decode())


def words(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower())


def errors(found: list[str], spoken: list[str]) -> int:
    """Words that were left out, put in, or replaced: Levenshtein's distance."""
    row = list(range(len(found) + 1))
    for index, word in enumerate(spoken, 1):
        before, row = row, [index]
        for place, other in enumerate(found, 1):
            row.append(min(before[place] + 1, row[-1] + 1, before[place - 1] + (word != other)))
    return row[-1]


# ---- as converted


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_the_files_have_the_same_bytes_each_time_and_only_standard_operators(part: str) -> None:
    folder = weights() / "tiny-en"
    decoder = read_weights(folder / "decoder_model_merged.ort")
    if part == "encoder":
        encoder = read_weights(folder / "encoder_model.ort")
        model = CONVERTER.encoder_model(NAME, encoder, decoder)
    else:
        model = CONVERTER.decoder_model(NAME, decoder)
    assert model.SerializeToString(deterministic=True) == (VERSION / f"{part}.onnx").read_bytes()
    assert {node.domain for node in model.graph.node} == {""}
    assert [opset.domain for opset in model.opset_import] == [""]


def test_weights_are_read_as_onnx_runtime_reads_them(tmp_path: Path) -> None:
    path = weights() / "tiny-en" / "encoder_model.ort"
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.optimized_model_filepath = str(tmp_path / "dumped.onnx")
    options.add_session_config_entry("session.save_model_format", "ONNX")
    options.log_severity_level = 3  # it warns that such a file fits this machine alone
    onnxruntime.InferenceSession(str(path), options)
    dumped = onnx.load(str(tmp_path / "dumped.onnx"))
    found = read_weights(path)
    kinds = (onnx.TensorProto.FLOAT, onnx.TensorProto.UINT8)
    compared = [tensor for tensor in dumped.graph.initializer if tensor.data_type in kinds]
    assert len(compared) > 100
    for tensor in compared:
        np.testing.assert_array_equal(found.tensors[tensor.name], numpy_helper.to_array(tensor))
    inputs = {node.name: list(node.input) for node in dumped.graph.node}
    assert (
        found.inputs["/layers.0/mlp/fc1/MatMul_quant"] == inputs["/layers.0/mlp/fc1/MatMul_quant"]
    )


def test_a_file_of_another_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="ONNX Runtime's format"):
        read_weights(VERSION / "tokenizer.bin")


def test_the_encoder_gives_what_the_published_one_does_but_for_its_rounding() -> None:
    samples = pieces("beckett")[0]
    keys, values = session(VERSION / "encoder.onnx").run(None, {"audio": samples[None]})
    folder = weights() / "tiny-en"
    ones = np.ones((1, samples.size), np.int64)
    floats = samples[None].astype(np.float32) / 2**15
    (hidden,) = session(folder / "encoder_model.ort").run(
        None, {"input_values": floats, "attention_mask": ones}
    )
    decoder = session(folder / "decoder_model_merged.ort")
    feeds = {
        "encoder_attention_mask": ones,
        "input_ids": np.array([[START]]),
        "encoder_hidden_states": hidden,
        "use_cache_branch": np.array([False]),
    }
    for put in decoder.get_inputs():
        if "past" in put.name:
            feeds[put.name] = np.zeros((1, 8, 0, 36), np.float32)
    names = [output.name for output in decoder.get_outputs()]
    published = dict(zip(names, decoder.run(names, feeds), strict=True))
    for layer in range(6):
        wanted = published[f"present.{layer}.encoder.key"][0].transpose(0, 2, 1)
        assert np.corrcoef(keys[layer].ravel(), wanted.ravel())[0, 1] > 0.995
        wanted = published[f"present.{layer}.encoder.value"][0]
        assert np.corrcoef(values[layer].ravel(), wanted.ravel())[0, 1] > 0.995


# ---- decoding and waiting, as the backend does them


def test_every_token_has_its_bytes() -> None:
    found = DECODING.vocabulary((VERSION / "tokenizer.bin").read_bytes())
    assert len(found) == 32_768
    assert found[3:259] == [bytes([value]) for value in range(256)]
    assert found[:3] == [b"", b"", b""]
    assert not [token for token in found if token.startswith(b"<<ST_")]


@pytest.mark.parametrize(
    ("tokens", "length"),
    [
        ([5] * 16, 1),
        ([5] * 15, 0),
        ([9, *([5, 6] * 8)], 2),
        ([5, 6] * 7, 0),
        ([1, 2, 3, 4, 5] * 4, 5),
        ([1, 2, 3, 4, 5] * 3, 0),
        (list(range(100)), 0),
    ],
)
def test_a_loop_is_known_by_its_phrase_and_common_repetition_is_not(
    tokens: list[int], length: int
) -> None:
    assert DECODING.loop(tokens) == length


def test_a_row_that_loops_ends_and_keeps_the_phrase_once() -> None:
    row = DECODING.Row(limit=1000)
    ended = [row.add(token, -0.1) for token in [7, *([5, 6] * 8)]]
    assert ended == [False] * 16 + [True]
    assert row.tokens == [7, 5, 6]


def test_a_row_ends_at_its_end_and_at_its_limit() -> None:
    row = DECODING.Row(limit=3)
    assert [row.add(token, -0.1) for token in (10, 11, END)] == [False, False, True]
    assert row.tokens == [10, 11]
    row = DECODING.Row(limit=3)
    assert [row.add(token, -0.1) for token in (10, 11, 12)] == [False, False, True]


@pytest.mark.parametrize("samples", [1600, 16_000, 16_001, 240_000, 480_000])
def test_frames_are_counted_as_the_encoder_makes_them(samples: int) -> None:
    encoder = session(VERSION / "encoder.onnx")
    keys, values = encoder.run(None, {"audio": np.zeros((1, samples), np.int16)})
    assert keys.shape == (6, 8, 36, DECODING.frames(samples))
    assert values.shape == (6, 8, DECODING.frames(samples), 36)


def room(streams: int = 1, waiting_s: float = 600) -> Any:
    return WAITING.WaitingRoom(streams=streams, rows=4, batch_s=60, waiting_s=waiting_s)


def job(priority: int, seconds: float = 1.0) -> Any:
    return WAITING.Job(priority, seconds)


def test_a_batch_has_one_priority_the_most_urgent_and_the_oldest_of_it() -> None:
    waiting, jobs = room(), [job(priority) for priority in (3, 2, 2, 1)]
    for one in jobs:
        waiting.add(one)
    assert waiting.take() == [jobs[3]]
    assert waiting.take_more_urgent(2) == []
    assert waiting.take_more_urgent(3) == [jobs[1], jobs[2]]
    assert waiting.take() == [jobs[0]]


def test_a_batch_is_bounded_in_rows_and_in_seconds_and_leaves_some_for_the_others() -> None:
    waiting = room()
    for seconds in (1, 1, 1, 1, 25, 20, 20, 70):
        waiting.add(job(2, seconds))
    taken = [[one.seconds for one in waiting.take()] for _ in range(4)]
    assert taken == [[1, 1, 1, 1], [25, 20], [20], [70]]
    shared = room(streams=2)
    for _ in range(3):
        shared.add(job(2))
    assert [len(shared.take()), len(shared.take())] == [2, 1]


def test_a_closed_room_gives_out_what_waits_and_then_nothing() -> None:
    waiting = room()
    waiting.add(job(2))
    waiting.close()
    assert len(waiting.take()) == 1
    assert waiting.take() == []


async def test_a_full_room_lets_little_more_in_and_beyond_twice_as_much_nothing() -> None:
    waiting = room(waiting_s=10)
    waiting.add(job(3, 15))
    await asyncio.wait_for(asyncio.to_thread(waiting.wait_for_room), 60)
    waiting.add(job(3, 15))
    blocked = asyncio.create_task(asyncio.to_thread(waiting.wait_for_room))
    done, _ = await asyncio.wait({blocked}, timeout=3 * WAITING.PAUSE_S)
    assert not done
    waiting.take()
    await asyncio.wait_for(blocked, 60)


# ---- as served


async def test_the_served_model_keeps_the_contract(served: Served) -> None:
    assert await check_served(served.inference, NAME) == "transcribe"


async def test_a_piece_alone_is_heard_as_the_files_alone_hear_it(served: Served) -> None:
    for piece, expected in zip(all_pieces(), bare(), strict=True):
        assert_same(await served.hear(piece), expected)


async def test_pieces_at_once_are_heard_as_alone_whoever_shares_their_batch(
    served: Served,
) -> None:
    order = [index % len(all_pieces()) for index in range(12)]
    answers = await asyncio.gather(*(served.hear(all_pieces()[index]) for index in order))
    for index, answer in zip(order, answers, strict=True):
        assert_same(answer, bare()[index])


async def test_one_word_in_ten_is_wrong_at_most(served: Served) -> None:
    assert max(piece.size for piece in all_pieces()) <= 15.1 * RATE
    answers = await asyncio.gather(*(served.hear(piece) for piece in pieces("two_cities")))
    found = words(" ".join(text_of(answer) for answer in answers))
    spoken = words(TWO_CITIES)
    rate = errors(found, spoken) / len(spoken)
    assert rate <= 0.10, f"{rate:.1%} of the words are wrong: {' '.join(found)}"


@pytest.mark.parametrize(
    ("samples", "seconds"), [(0, "0.000"), (1599, "0.100"), (30 * RATE + 1, "30.000")]
)
async def test_sound_of_another_length_is_refused_and_disturbs_nobody(
    served: Served, samples: int, seconds: str
) -> None:
    piece, expected = all_pieces()[-1], bare()[-1]
    asked = [piece, np.zeros(samples, np.int16), piece]
    answers = await asyncio.gather(*map(served.hear, asked), return_exceptions=True)
    refused = answers.pop(1)
    assert isinstance(refused, JobFailed)
    assert refused.code == "inference_refused"
    assert f"audio: {seconds} s of sound" in refused.message
    assert "0.1 to 30 s" in refused.message
    for answer in answers:
        assert not isinstance(answer, BaseException)
        assert_same(answer, expected)


async def test_sound_of_another_type_or_several_in_one_request_are_refused(served: Served) -> None:
    for wrong in (np.zeros((1, RATE), np.float32), np.zeros((2, RATE), np.int16)):
        with pytest.raises(JobFailed) as caught:
            await served.inference.infer(served.model, {"audio": wrong})
        assert caught.value.code == "inference_refused"


async def test_silence_is_answered_with_finite_numbers(served: Served) -> None:
    for seconds in (0.1, 1, 30):
        answer = await served.hear(np.zeros(int(seconds * RATE), np.int16))
        assert np.isfinite(answer["log_probability"]).all()
        assert answer["tokens"].size <= 8 + 6.5 * seconds


async def test_an_urgent_piece_overtakes_long_ones_that_wait(served: Served) -> None:
    low = [asyncio.create_task(served.hear(long_recording(), priority=3)) for _ in range(24)]
    await asyncio.wait(low, return_when=asyncio.FIRST_COMPLETED)
    await served.hear(pieces("beckett")[0][: 3 * RATE], priority=1)
    first = sum(task.done() for task in low)
    assert first <= len(low) / 2, f"{first} long ones were answered first"
    texts = {text_of(answer) for answer in await asyncio.gather(*low)}
    assert len(texts) == 1


async def test_the_work_for_those_who_go_away_stops_and_the_others_have_theirs(
    served: Served,
) -> None:
    piece, expected = pieces("beckett")[0], bare()[len(pieces("two_cities"))]
    before = await served.answered()
    leaving = [asyncio.create_task(served.hear(long_recording())) for _ in range(24)]
    staying = [asyncio.create_task(served.hear(piece)) for _ in range(2)]
    await served.hear(piece, priority=1)
    had_theirs = sum(
        task.done() for task in leaving
    )  # before they left: a busy machine may be late
    for task in leaving:
        task.cancel()
    await asyncio.gather(*leaving, return_exceptions=True)
    for answer in await asyncio.gather(*staying):
        assert_same(answer, expected)
    written = await served.answered() - before - 3
    for_nobody = written - had_theirs
    assert for_nobody <= (len(leaving) - had_theirs) / 2, f"{for_nobody} were written for nobody"
