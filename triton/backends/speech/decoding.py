"""Greedy decoding of Moonshine's two networks for several recordings at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

SAMPLE_RATE = 16_000
START, END = 1, 2
SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # how SentencePiece writes a space
# Nobody speaks faster: Moonshine's authors allow 6.5 tokens a second. The few beside let a short
# call be written whole.
TOKENS_A_SECOND, TOKENS_BESIDE = 6.5, 8
# A phrase that comes so often in a row, over so many tokens, is the decoder's loop and no speech.
LOOP_TIMES, LOOP_TOKENS, LONGEST_PHRASE = 4, 16, 16


@dataclass(frozen=True)
class Result:
    """What was said in one recording."""

    text: str
    tokens: list[int]
    log_probability: float
    """Mean natural logarithm of the tokens' probabilities, the end's among them."""


@dataclass
class Row:
    """One recording of a batch."""

    limit: int
    tokens: list[int] = field(default_factory=list)
    logarithms: list[float] = field(default_factory=list)
    last: int = START

    def add(self, token: int, logarithm: float) -> bool:
        """Add a token; whether the row has ended with it."""
        self.logarithms.append(logarithm)
        self.last = token
        if token == END:
            return True
        self.tokens.append(token)
        phrase = loop(self.tokens)
        if phrase:
            while self.tokens[-2 * phrase : -phrase] == self.tokens[-phrase:]:
                del self.tokens[-phrase:]
        return bool(phrase) or len(self.tokens) >= self.limit


def loop(tokens: list[int]) -> int:
    """The length of the phrase that the tokens end with again and again; 0 where there is none."""
    for length in range(1, LONGEST_PHRASE + 1):
        times = max(LOOP_TIMES, -(-LOOP_TOKENS // length))
        end = tokens[-length * times :]
        if len(end) == length * times and end == end[:length] * times:
            return length
    return 0


class Network:
    """The networks and the vocabulary of one version; streams share them."""

    def __init__(self, folder: Path) -> None:
        options = onnxruntime.SessionOptions()
        # Each stream computes on its own thread.
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        # Patterns of memory are kept for every length that came; they gain nothing here.
        options.enable_mem_pattern = False
        self.encoder, self.decoder = (
            onnxruntime.InferenceSession(
                str(folder / name), options, providers=["CPUExecutionProvider"]
            )
            for name in ("encoder.onnx", "decoder.onnx")
        )
        keys = next(tensor for tensor in self.encoder.get_outputs() if tensor.name == "keys")
        self.layers, self.heads, self.head = keys.shape[:3]
        self._vocabulary = vocabulary((folder / "tokenizer.bin").read_bytes())

    def text(self, tokens: list[int]) -> str:
        """The tokens' text; a character cut off at its end is left out."""
        data = b"".join(self._vocabulary[token] for token in tokens)
        return data.decode(errors="ignore").replace(SPACE, " ").strip()


def vocabulary(data: bytes) -> list[bytes]:
    """The bytes of each token; control tokens have none.

    A length (two bytes, base 128, the lower first, from 128 on) stands before each.
    """
    tokens: list[bytes] = []
    at = 0
    while at < len(data):
        length = data[at]
        at += 1
        if length >= 128:
            length += data[at] * 128 - 128
            at += 1
        token = data[at : at + length]
        control = token in (b"<unk>", b"<s>", b"</s>") or token.startswith(b"<<ST_")
        tokens.append(b"" if control else token)
        at += length
    return tokens


class Rows:
    """A batch at work. Rows keep their places, and leave it by ending or by `drop`."""

    def __init__(self, network: Network, samples: list[int]) -> None:
        """`samples`: the length of each recording."""
        self._network = network
        self._rows = [
            Row(int(TOKENS_A_SECOND * count / SAMPLE_RATE) + TOKENS_BESIDE) for count in samples
        ]
        self.live = list(range(len(samples)))
        """The places that have not ended."""
        self.steps = 0
        count, most = len(samples), max(frames(count) for count in samples)
        heads = (network.layers, count, network.heads)
        self._held = list(self.live)
        """The places that the tensors hold: some that have ended, until it pays to copy."""
        self._keys = np.zeros((*heads, network.head, most), np.float32)
        self._values = np.zeros((*heads, most, network.head), np.float32)
        self._lengths = np.ones(count, np.int64)
        self._past: dict[str, Any] = {}
        for layer in range(network.layers):
            shape = (count, network.heads)
            self._past[f"past_keys.{layer}"] = np.zeros((*shape, network.head, 0), np.float32)
            self._past[f"past_values.{layer}"] = np.zeros((*shape, 0, network.head), np.float32)

    def encode(self, place: int, sound: Any) -> None:
        """Encode a recording, INT16 [1, N], before the first step."""
        keys, values = self._network.encoder.run(["keys", "values"], {"audio": sound})
        length = keys.shape[-1]
        self._keys[:, place, ..., :length] = keys
        self._values[:, place, :, :length] = values
        self._lengths[place] = length

    def drop(self, place: int) -> None:
        """Give up a row."""
        self.live.remove(place)

    def step(self) -> list[int]:
        """Add a token to every row; return the places of those that ended with it."""
        self._compact()
        feeds = {f"keys.{layer}": keys for layer, keys in enumerate(self._keys)}
        feeds |= {f"values.{layer}": values for layer, values in enumerate(self._values)}
        feeds |= self._past | {"lengths": self._lengths}
        feeds["tokens"] = np.array([self._rows[place].last for place in self._held], np.int64)
        decoder = self._network.decoder
        names = [output.name for output in decoder.get_outputs()]
        outputs = dict(zip(names, decoder.run(names, feeds), strict=True))
        tokens, logarithms = outputs.pop("next"), outputs.pop("log_probabilities")
        self._past = {name.replace("present", "past"): array for name, array in outputs.items()}
        self.steps += 1
        ended = []
        for token, logarithm, place in zip(tokens, logarithms, self._held, strict=True):
            if place in self.live and self._rows[place].add(int(token), float(logarithm)):
                self.live.remove(place)
                ended.append(place)
        return ended

    def result(self, place: int) -> Result:
        """What a row that ended has said."""
        row = self._rows[place]
        mean = float(np.mean(row.logarithms))
        return Result(self._network.text(row.tokens), row.tokens, mean)

    def _compact(self) -> None:
        """Leave ended rows behind when they are a quarter: a copy costs as much as some steps."""
        if len(self.live) > 0.75 * len(self._held):
            return
        kept = [index for index, place in enumerate(self._held) if place in self.live]
        self._held = [self._held[index] for index in kept]
        self._lengths = self._lengths[kept]
        most = int(self._lengths.max())
        self._keys = np.ascontiguousarray(self._keys[:, kept, :, :, :most])
        self._values = np.ascontiguousarray(self._values[:, kept, :, :most])
        self._past = {name: array[kept] for name, array in self._past.items()}


def frames(samples: int) -> int:
    """Frames that the encoder's three convolutions make of so many samples."""
    for kernel, stride in ((127, 64), (7, 3), (3, 2)):
        samples = (samples - kernel) // stride + 1
    return samples
