"""Triton backend `speech`: writes down what is said, many requests at a time.

Runs the three files of a version: `encoder.onnx`, `decoder.onnx` (one step for all rows of a
batch) and `tokenizer.bin`. Each stream takes a batch of waiting requests, encodes one after the
other, then decodes all of them together, token by token; each is answered when its row ends.
Between two of these units of work it first serves whatever is more urgent, so that a short request
never waits for a long batch.

The request parameter `nereid_priority` says how urgent a request is, 1 before 2 before 3; Triton
does not show its own. One that is missing means 2.

Parameters of config.pbtxt, all optional:
  streams     batches that are worked on at the same time, each on one core; default 1
  batch       requests of one batch at most; default 8
  batch_s     seconds of sound in a batch at most, its rows counted as long as the longest, for
              memory grows with it; a single request may be longer; default 120
  waiting_s   seconds of sound taken out of Triton's queue at most; default 600
  longest_s   seconds of the longest sound that is accepted; default 30
"""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

sys.path.append(str(Path(__file__).resolve().parents[1]))  # where what backends share lies

from answering import CancelledError, RefusedError, send, translate
from decoding import SAMPLE_RATE, Network, Result, Rows
from waiting import Job, WaitingRoom

SHORTEST_S = 0.1  # what remains of less has no frame
USUAL_PRIORITY = 2
# A question to Triton takes 40 microseconds, and a step of eight rows ten milliseconds.
STEPS_BETWEEN_QUESTIONS = 8


class Request(Job):
    """A request in hand."""

    def __init__(self, request: Any, sender: Any, longest_s: float) -> None:
        """Raises RefusedError for sound that cannot be served."""
        self._request, self._sender = request, sender
        given = json.loads(request.parameters() or "{}").get("nereid_priority", USUAL_PRIORITY)
        sound = pb_utils.get_input_tensor_by_name(request, "audio").as_numpy()
        if len(sound) != 1:
            raise RefusedError(f"audio: a request holds one sound, and this one {len(sound)}")
        seconds = sound.shape[1] / SAMPLE_RATE
        if not SHORTEST_S <= seconds <= longest_s:
            raise RefusedError(
                f"audio: {seconds:.3f} s of sound at {SAMPLE_RATE} Hz, which must last from"
                f" {SHORTEST_S:g} to {longest_s:g} s: cut it at silences"
            )
        super().__init__(int(given), seconds)
        self.sound = sound

    def expect_wanted(self) -> None:
        """Raise CancelledError where nobody waits for the answer any more."""
        if self._request.is_cancelled():
            raise CancelledError

    def answer(self, result: Result) -> None:
        """Send the text."""
        outputs = [
            pb_utils.Tensor("text", np.array([[result.text.encode()]], object)),
            pb_utils.Tensor("tokens", np.array([result.tokens], np.int32)),
            pb_utils.Tensor("log_probability", np.array([[result.log_probability]], np.float32)),
        ]
        send(self._sender, pb_utils.InferenceResponse(outputs))

    def fail(self, error: Exception) -> None:
        """Send what went wrong."""
        send(self._sender, pb_utils.InferenceResponse(error=translate(error)))


class TritonPythonModel:
    """One model version, as Triton's Python backend wants it."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the networks and start the streams."""
        config = json.loads(args["model_config"])
        parameters = {
            key: value["string_value"] for key, value in config.get("parameters", {}).items()
        }
        self._longest_s = float(parameters.get("longest_s", "30"))
        self._room = WaitingRoom(
            rows=int(parameters.get("batch", "8")),
            batch_s=float(parameters.get("batch_s", "120")),
            waiting_s=float(parameters.get("waiting_s", "600")),
        )
        network = Network(Path(args["model_repository"]) / args["model_version"])
        self._threads = [
            threading.Thread(target=Stream(network, self._room).run, name=f"stream {number}")
            for number in range(int(parameters.get("streams", "1")))
        ]
        for thread in self._threads:
            thread.start()

    def execute(self, requests: list[Any]) -> None:
        """Take the requests in; return when there is room for more."""
        for request in requests:
            sender = request.get_response_sender()
            try:
                self._room.add(Request(request, sender, self._longest_s))
            except Exception as error:  # noqa: BLE001 - whatever it is, the client must hear of it
                send(sender, pb_utils.InferenceResponse(error=translate(error)))
        self._room.wait_for_room()

    def finalize(self) -> None:
        """Finish what waits before the model is unloaded."""
        self._room.close()
        for thread in self._threads:
            thread.join()


class Stream:
    """Serves one batch after the other."""

    def __init__(self, network: Network, room: WaitingRoom) -> None:
        self._network, self._room = network, room

    def run(self) -> None:
        """Serve until the room is closed and empty."""
        while batch := self._room.take():
            self._serve(batch)

    def _serve(self, batch: list[Any]) -> None:
        rows = Rows(self._network, [request.sound.shape[1] for request in batch])
        for place, request in enumerate(batch):
            self._let_pass(request.priority)
            try:
                request.expect_wanted()
                rows.encode(place, request.sound)
            except Exception as error:  # noqa: BLE001 - of this request alone
                rows.drop(place)
                request.fail(error)
        while rows.live:
            self._let_pass(batch[0].priority)
            try:
                ended = rows.step()
            except Exception as error:  # noqa: BLE001 - of all the batch
                for place in rows.live:
                    batch[place].fail(error)
                return
            for place in ended:
                batch[place].answer(rows.result(place))
            if rows.steps % STEPS_BETWEEN_QUESTIONS == 0:
                self._drop_unwanted(rows, batch)

    def _drop_unwanted(self, rows: Rows, batch: list[Any]) -> None:
        for place in list(rows.live):
            try:
                batch[place].expect_wanted()
            except CancelledError as error:
                rows.drop(place)
                batch[place].fail(error)

    def _let_pass(self, priority: int) -> None:
        """Serve all that is more urgent. The levels of priority bound how deep this goes."""
        while urgent := self._room.take_more_urgent(priority):
            self._serve(urgent)
