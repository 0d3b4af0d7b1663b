"""Triton backend `speech`: writes down what is said, for many requests at a time.

Runs the three files of a version: `encoder.onnx`, `decoder.onnx` (one step for all rows of a
batch) and `tokenizer.bin`. Each stream forms a batch of waiting requests, encodes one after the
other, then decodes all of them together, token by token; each is answered when its row ends.
Between two of these units of work it serves whatever is more urgent, so that a short request never
waits for a long batch.

The request parameter `nereid_priority` says how urgent a request is, 1 before 2 before 3; Triton
does not show its own. One that is missing means 2.

Parameters of config.pbtxt, all optional:
  streams     batches that are worked on at the same time, each on one core; default 1
  batch       requests of one batch at most; default 8
  batch_s     seconds of sound in a batch at most, each row counted as long as the longest, for all
              take as much memory as that; one request alone may be longer; default 80
  waiting_s   seconds of sound that may wait here, where more urgent ones overtake; beyond, little
              is taken out of Triton's queue, and beyond twice as much nothing; default 600
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
from waiting import LEVELS, Job, WaitingRoom

SHORTEST_S = 0.1  # the convolutions make no frame of less than 0.05 s
USUAL_PRIORITY = 2
# A question to Triton takes 40 microseconds, and a step of eight rows ten milliseconds.
STEPS_BETWEEN_QUESTIONS = 8


class Request(Job):
    """A request in hand."""

    def __init__(self, request: Any, sender: Any, longest_s: float) -> None:
        """Raises RefusedError for sound that cannot be served."""
        self._request, self._sender = request, sender
        self.answered = False
        priority = json.loads(request.parameters() or "{}").get("nereid_priority", USUAL_PRIORITY)
        if priority not in LEVELS:
            raise RefusedError(f"nereid_priority: {priority!r} must be one of {LEVELS}")
        self.sound = pb_utils.get_input_tensor_by_name(request, "audio").as_numpy()
        seconds = self.sound.shape[1] / SAMPLE_RATE
        if not SHORTEST_S <= seconds <= longest_s:
            raise RefusedError(
                f"audio: {seconds:.3f} s of sound at {SAMPLE_RATE} Hz, which must last from"
                f" {SHORTEST_S:g} to {longest_s:g} s: cut it at silences"
            )
        super().__init__(priority, seconds)

    def is_wanted(self) -> bool:
        """Whether somebody still waits for the answer."""
        return not self._request.is_cancelled()

    def answer(self, result: Result) -> None:
        """Send the text."""
        outputs = [
            pb_utils.Tensor("text", np.array([[result.text.encode()]], object)),
            pb_utils.Tensor("tokens", np.array([result.tokens], np.int32)),
            pb_utils.Tensor("log_probability", np.array([[result.log_probability]], np.float32)),
        ]
        send(self._sender, pb_utils.InferenceResponse(outputs))
        self.answered = True

    def fail(self, error: Exception) -> None:
        """Send what went wrong. Where even that fails, the log has it."""
        self.answered = True
        try:
            send(self._sender, pb_utils.InferenceResponse(error=translate(error)))
        except Exception as second:  # noqa: BLE001 - the stream must live
            pb_utils.Logger.log_error(f"speech: no answer could be sent: {second}")


class TritonPythonModel:
    """One model version, as Triton's Python backend wants it."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the networks and start the streams."""
        config = json.loads(args["model_config"])
        parameters = {
            key: value["string_value"] for key, value in config.get("parameters", {}).items()
        }
        streams = int(parameters.get("streams", "1"))
        self._longest_s = float(parameters.get("longest_s", "30"))
        self._room = WaitingRoom(
            streams=streams,
            rows=int(parameters.get("batch", "8")),
            batch_s=float(parameters.get("batch_s", "80")),
            waiting_s=float(parameters.get("waiting_s", "600")),
        )
        network = Network(Path(args["model_repository"]) / args["model_version"])
        self._threads = [
            threading.Thread(target=Stream(network, self._room).run, name=f"stream {number}")
            for number in range(streams)
        ]
        for thread in self._threads:
            thread.start()

    def execute(self, requests: list[Any]) -> None:
        """Take the requests in; return when more may come."""
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
        try:
            self._decode(batch, self._encoded(batch))
        except Exception as error:  # noqa: BLE001 - whatever it is, the clients must hear of it
            for request in batch:
                if not request.answered:
                    request.fail(error)

    def _encoded(self, batch: list[Any]) -> Rows:
        """The batch at its first step. One that cannot be encoded fails alone."""
        rows = Rows(self._network, [request.sound.shape[1] for request in batch])
        for place, request in enumerate(batch):
            self._let_pass(request.priority)
            if not request.is_wanted():
                self._give_up(rows, place, request, CancelledError())
                continue
            try:
                rows.encode(place, request.sound)
            except Exception as error:  # noqa: BLE001 - as above
                self._give_up(rows, place, request, error)
        return rows

    def _decode(self, batch: list[Any], rows: Rows) -> None:
        while rows.live:
            self._let_pass(batch[0].priority)
            for place in rows.step():
                batch[place].answer(rows.result(place))
            if rows.steps % STEPS_BETWEEN_QUESTIONS == 0:
                for place in [place for place in rows.live if not batch[place].is_wanted()]:
                    self._give_up(rows, place, batch[place], CancelledError())

    @staticmethod
    def _give_up(rows: Rows, place: int, request: Any, error: Exception) -> None:
        rows.drop(place)
        request.fail(error)

    def _let_pass(self, priority: int) -> None:
        """Serve all that is more urgent. The levels of priority bound how deep this goes."""
        while urgent := self._room.take_more_urgent(priority):
            self._serve(urgent)
