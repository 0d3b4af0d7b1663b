"""The bare engine of `just bench audio`: the served networks on speech that is converted already.

ONNX Runtime, two threads of one core each, eight clips decoded together: as the backend does it,
without Triton, HTTP, conversion and the search for speech.
"""

from __future__ import annotations

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

CHECKOUT = Path(__file__).parents[2]
sys.path.append(str(CHECKOUT / "triton" / "backends" / "speech"))

import onnxruntime
from decoding import Network, Rows

from functions._kit.capabilities import DEFAULT_MODELS
from functions._kit.ports import SPEECH
from functions._kit.sound import convert

THREADS, TOGETHER = 2, 8


def main(folder: Path) -> None:
    """Say for each line how many seconds all clips of `folder` took."""
    model = CHECKOUT / "model_repository" / DEFAULT_MODELS["transcribe"] / "1"
    network = Network(model)
    clips = [samples_of(file) for file in sorted(folder.glob("voice-10-*.opus"))]
    batches = [clips[at : at + TOGETHER] for at in range(0, len(clips), TOGETHER)]
    facts = {"engine": "ONNX Runtime", "version": onnxruntime.__version__}
    print(json.dumps(facts | {"threads": THREADS, "together": TOGETHER}), flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        with ThreadPoolExecutor(THREADS) as threads:
            list(threads.map(lambda batch: decode(network, batch), batches))
        print(time.perf_counter() - began, flush=True)


def samples_of(file: Path) -> Any:
    """A clip as the model takes it, INT16 [1, N]."""
    wav = file.with_suffix(".bare.wav")
    convert(file, wav, SPEECH, longest_s=60)
    return np.frombuffer(wav.read_bytes()[44:], np.int16)[None]


def decode(network: Network, batch: list[Any]) -> None:
    """All of a batch, to the last word."""
    rows = Rows(network, [clip.shape[1] for clip in batch])
    for place, clip in enumerate(batch):
        rows.encode(place, clip)
    while rows.live:
        rows.step()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
