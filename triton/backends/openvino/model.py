"""Triton backend `openvino`: runs the file `default_model_filename` of a version on the CPU.

Triton hands over batches of requests; each request runs on a free stream of OpenVINO and is
answered as soon as it is done, so that a slow one never holds the others of its batch.

Parameters of config.pbtxt, all optional:
  streams           requests that run at the same time, each on its share of the cores; default 1
  precision         `bf16` where the CPU computes in it (f32 elsewhere), or `f32`; default `f32`
  shapes            `any`: compile once, for every shape; `each`: compile for each input shape that
                    comes, which takes a moment the first time, is some percent faster, and lets a
                    deep network run in a third of the memory; or `fixed`: compile when the model
                    is loaded, for a batch of one of the size that config.pbtxt gives; larger
                    batches run one by one; default `any`
  shapes_kept       of `each`, the last so many stay compiled; default 1, for all tiles of a photo
                    have one shape, and an idle shape holds as much memory as a busy one
  max_tile_pixels   the largest height x width of an NHWC picture; larger ones are refused
"""

from __future__ import annotations

import json
import queue
import sys
import threading
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import triton_python_backend_utils as pb_utils

sys.path.append(str(Path(__file__).resolve().parents[1]))  # where what backends share lies

from answering import CancelledError, RefusedError, send, translate


class TritonPythonModel:
    """One model version, as Triton's Python backend wants it."""

    def initialize(self, args: dict[str, str]) -> None:
        """Compile the model, unless that waits for the first shape."""
        config = json.loads(args["model_config"])
        parameters = {
            key: value["string_value"] for key, value in config.get("parameters", {}).items()
        }
        folder = Path(args["model_repository"]) / args["model_version"]
        path = folder / config["default_model_filename"]
        streams = int(parameters.get("streams", "1"))
        self._max_tile_pixels = int(parameters.get("max_tile_pixels", "0"))
        sizes = {port["name"]: [int(side) for side in port["dims"]] for port in config["input"]}
        self._engine = Engine(
            path,
            streams,
            parameters.get("precision", "f32"),
            parameters.get("shapes", "any"),
            int(parameters.get("shapes_kept", "1")),
            sizes,
        )
        self._threads = ThreadPoolExecutor(streams, thread_name_prefix="stream")
        self._free = threading.Semaphore(streams)

    def execute(self, requests: list[Any]) -> None:
        """Start every request, each as soon as a stream is free; return when one is free again.

        Triton fetches the next batch then. What waits here can no longer be overtaken by a
        higher priority, therefore nothing is queued beyond this batch, and a model with long
        requests prefers batches of one.
        """
        for request in requests:
            self._free.acquire()
            self._threads.submit(self._answer, request)
        with self._free:
            pass

    def finalize(self) -> None:
        """Finish what runs before the model is unloaded."""
        self._threads.shutdown(wait=True)

    def _answer(self, request: Any) -> None:
        sender = request.get_response_sender()
        try:
            self._infer(request, sender)
        except Exception as error:  # noqa: BLE001 - whatever it is, the client must hear of it
            send(sender, pb_utils.InferenceResponse(error=translate(error)))
        finally:
            self._free.release()

    def _infer(self, request: Any, sender: Any) -> None:
        if request.is_cancelled():
            raise CancelledError
        arrays = {
            name: pb_utils.get_input_tensor_by_name(request, name).as_numpy()
            for name in self._engine.inputs
        }
        for array in arrays.values():
            self._refuse_large(array)
        with self._engine.runner(arrays) as runner:
            results = self._engine.run(runner, arrays)
            outputs = [pb_utils.Tensor(name, array) for name, array in results.items()]
            # Sent while the runner is ours: the tensors are its memory, not copies.
            send(sender, pb_utils.InferenceResponse(outputs))

    def _refuse_large(self, array: Any) -> None:
        limit = self._max_tile_pixels
        if limit and array.ndim == 4 and array.shape[1] * array.shape[2] > limit:
            height, width = array.shape[1:3]
            raise RefusedError(
                f"a tile of {height}x{width} pixels is above max_tile_pixels = {limit}"
            )


class Engine:
    """A network, compiled for every shape, for each that comes, or for the one in the config."""

    def __init__(
        self,
        path: Path,
        streams: int,
        precision: str,
        shapes: str,
        kept: int,
        sizes: dict[str, list[int]],
    ) -> None:
        """`sizes`: the inputs' dims without the batch. Raises ValueError for an unknown word."""
        if precision not in ("bf16", "f32"):
            raise ValueError(f"parameter precision: {precision!r} is neither bf16 nor f32")
        if shapes not in ("any", "each", "fixed"):
            raise ValueError(f"parameter shapes: {shapes!r} is none of any, each and fixed")
        if shapes == "fixed" and any(side < 1 for dims in sizes.values() for side in dims):
            raise ValueError("parameter shapes: fixed needs inputs whose dims are all given")
        self._core = openvino.Core()
        capabilities = self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        fast = precision == "bf16" and "BF16" in capabilities
        self._settings = {
            "NUM_STREAMS": streams,
            "INFERENCE_PRECISION_HINT": "bf16" if fast else "f32",
        }
        self._path = path
        self._kept = kept
        model = self._core.read_model(path)
        self.inputs = [port.any_name for port in model.inputs]
        self.outputs = [port.any_name for port in model.outputs]
        self._each, self._fixed = shapes == "each", shapes == "fixed"
        if self._fixed:
            model.reshape({name: [1, *dims] for name, dims in sizes.items()})
        self._lock = threading.Lock()
        self._pools: OrderedDict[Any, Pool] = OrderedDict()
        if not self._each:
            self._pools[None] = Pool(self._core.compile_model(model, "CPU", self._settings))

    def runner(self, arrays: dict[str, Any]) -> Any:
        """A free inference request for the shapes of `arrays`, as a context manager."""
        shapes = {name: list(array.shape) for name, array in arrays.items()}
        key = json.dumps(shapes) if self._each else None
        with self._lock:
            if key not in self._pools:
                while len(self._pools) >= self._kept:
                    self._pools.popitem(last=False)
                model = self._core.read_model(self._path)
                model.reshape(shapes)
                self._pools[key] = Pool(self._core.compile_model(model, "CPU", self._settings))
            self._pools.move_to_end(key)
            return self._pools[key].take()

    def run(self, runner: Any, arrays: dict[str, Any]) -> dict[str, Any]:
        """The results by output name: the runner's own memory, or copies where it ran often."""
        batch = len(next(iter(arrays.values())))
        if not self._fixed or batch == 1:
            return self._run(runner, arrays)
        rows = (
            {name: array[row : row + 1] for name, array in arrays.items()} for row in range(batch)
        )
        parts = [
            {name: result.copy() for name, result in self._run(runner, row).items()} for row in rows
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in self.outputs}

    def _run(self, runner: Any, arrays: dict[str, Any]) -> dict[str, Any]:
        for name, array in arrays.items():
            runner.set_tensor(name, openvino.Tensor(array, shared_memory=True))
        runner.infer()
        return {name: runner.get_tensor(name).data for name in self.outputs}


class Pool:
    """The inference requests of one compiled network."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()

    @contextmanager
    def take(self) -> Iterator[Any]:
        """Lend a request, made when none is idle. One that failed is not lent again."""
        try:
            runner = self._idle.get_nowait()
        except queue.Empty:
            runner = self._compiled.create_infer_request()
        yield runner
        self._idle.put(runner)
