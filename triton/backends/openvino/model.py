"""Triton backend `openvino`: runs the file `default_model_filename` of a version on the CPU.

Triton hands over batches of requests; each request runs on a free stream of OpenVINO and is
answered as soon as it is done, so that a slow one never holds the others of its batch.

Parameters of config.pbtxt, all optional:
  streams           requests that run at the same time, each on its share of the cores; default 1
  precision         `bf16` where the CPU computes in it (f32 elsewhere), or `f32`; default `f32`
  max_tile_pixels   the largest height x width of an NHWC picture; larger ones are refused
"""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openvino
import triton_python_backend_utils as pb_utils

# How the C++ allocator, the kernel (ENOMEM) and oneDNN say that memory ran out.
OUT_OF_MEMORY = ("bad_alloc", "allocate", "out of memory", "could not create a memory object")


class TritonPythonModel:
    """One model version, as Triton's Python backend wants it."""

    def initialize(self, args: dict[str, str]) -> None:
        """Compile the model for any picture size."""
        config = json.loads(args["model_config"])
        parameters = {
            key: value["string_value"] for key, value in config.get("parameters", {}).items()
        }
        folder = Path(args["model_repository"]) / args["model_version"]
        path = folder / config["default_model_filename"]
        streams = int(parameters.get("streams", "1"))
        self._max_tile_pixels = int(parameters.get("max_tile_pixels", "0"))
        self._compiled = compile_model(path, streams, parameters.get("precision", "f32"))
        self._names = [port.any_name for port in self._compiled.inputs]
        self._outputs = [port.any_name for port in self._compiled.outputs]
        self._local = threading.local()
        self._threads = ThreadPoolExecutor(streams, thread_name_prefix="stream")
        self._free = threading.Semaphore(streams)

    def execute(self, requests: list[Any]) -> None:
        """Start every request, each as soon as a stream is free; return when all have started.

        Triton fetches the next batch then. What waits here can no longer be overtaken by a
        higher priority, therefore nothing is queued beyond this batch.
        """
        for request in requests:
            self._free.acquire()
            self._threads.submit(self._answer, request)

    def finalize(self) -> None:
        """Finish what runs before the model is unloaded."""
        self._threads.shutdown(wait=True)

    def _answer(self, request: Any) -> None:
        sender = request.get_response_sender()
        try:
            response = self._infer(request)
        except Exception as error:  # whatever it is, the client must hear of it
            response = pb_utils.InferenceResponse(error=translate(error))
        finally:
            self._free.release()
        sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def _infer(self, request: Any) -> Any:
        if request.is_cancelled():
            raise Cancelled
        runner = self._runner()
        for name in self._names:
            array = pb_utils.get_input_tensor_by_name(request, name).as_numpy()
            self._refuse_large(array)
            runner.set_tensor(name, openvino.Tensor(array, shared_memory=array.flags.writeable))
        runner.infer()
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor(name, runner.get_tensor(name).data) for name in self._outputs]
        )

    def _runner(self) -> openvino.InferRequest:
        """This thread's own inference request."""
        if not hasattr(self._local, "runner"):
            self._local.runner = self._compiled.create_infer_request()
        return self._local.runner

    def _refuse_large(self, array: Any) -> None:
        limit = self._max_tile_pixels
        if limit and array.ndim == 4 and array.shape[1] * array.shape[2] > limit:
            height, width = array.shape[1:3]
            raise Refused(f"a tile of {height}x{width} pixels is above max_tile_pixels = {limit}")


class Refused(Exception):
    """The request is at fault."""


class Cancelled(Exception):
    """Nobody waits for the answer any more."""


def compile_model(path: Path, streams: int, precision: str) -> openvino.CompiledModel:
    """Compile `path`; raises ValueError for a precision that is unknown."""
    if precision not in ("bf16", "f32"):
        raise ValueError(f"parameter precision: {precision!r} is neither bf16 nor f32")
    core = openvino.Core()
    fast = precision == "bf16" and "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    settings = {"NUM_STREAMS": streams, "INFERENCE_PRECISION_HINT": "bf16" if fast else "f32"}
    return core.compile_model(path, "CPU", settings)


def translate(error: Exception) -> Any:
    """Tell a client whether it, the machine, or the model is at fault."""
    text = str(error)
    if isinstance(error, Cancelled):
        return pb_utils.TritonError("cancelled", pb_utils.TritonError.CANCELLED)
    if isinstance(error, Refused):
        return pb_utils.TritonError(text, pb_utils.TritonError.INVALID_ARG)
    if isinstance(error, MemoryError) or any(word in text.lower() for word in OUT_OF_MEMORY):
        return pb_utils.TritonError(f"out of memory: {text}", pb_utils.TritonError.UNAVAILABLE)
    return pb_utils.TritonError(f"inference failed: {text}", pb_utils.TritonError.INTERNAL)
