"""The port `Inference` over NVIDIA Triton's gRPC protocol."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import InferInput, InferResult
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.grpc.model_config_pb2 import DataType
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from functions._kit.errors import (
    JobFailed,
    NereidError,
    NotFound,
    OutOfMemory,
    RetryJob,
    StillLoading,
    Unavailable,
)
from functions._kit.ports import (
    ModelVersion,
    ServedModel,
    TensorSpec,
    VersionState,
    VersionStatistics,
)
from gateway.adapters.background import end
from gateway.tls import TlsFiles
from gateway.tracing import UNTRACED, Tracing

log = logging.getLogger(__name__)

CHANNEL = [
    ("grpc.max_send_message_length", -1),  # Triton's own limit holds
    ("grpc.max_receive_message_length", -1),
    # gRPC's default waits up to 120 s before it looks again for a server that came back.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
]
SILENT_WATCHES = 3  # probes in a row without an answer, while a request waits
# Triton's words for a Python backend whose process has died; loading the model starts another.
DEAD_BACKEND = "stub process"
OUT_OF_MEMORY = ("bad_alloc", "out of memory", "cannot allocate", "shared memory")


class TritonInference:
    """Models of one Triton server. Opens its connection in `async with` or `open`."""

    def __init__(
        self,
        url: str,
        *,
        infer_timeout_s: float = 3600.0,
        watch_s: float = 15.0,
        load_timeout_s: float = 120.0,
        load_patience_s: float | None = None,
        status_timeout_s: float = 5.0,
        tracing: Tracing = UNTRACED,
        tls: TlsFiles | None = None,
    ) -> None:
        """`url` is host:port; with `tls` its certificate is checked.

        An inference's time includes its wait in Triton's queue. While it waits, the server is
        probed every `watch_s`; three silences end the wait. Whoever waits longer than
        `load_patience_s` for a model to be loaded is told `StillLoading`.
        """
        self._url = url
        self._infer_timeout_s = infer_timeout_s
        self._watch_s = watch_s
        self._load_timeout_s = load_timeout_s
        self._load_patience_s = load_patience_s
        self._status_timeout_s = status_timeout_s
        self._tracing = tracing
        self._tls = tls
        self._models: dict[tuple[str, str | None], ServedModel] = {}
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._loads: dict[str, asyncio.Task[None]] = {}
        self._opened: InferenceServerClient | None = None
        self.answered = 0
        """Requests that the server has answered with a result."""

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def open(self) -> None:
        """Make the channel; a server that is away shows at the first call."""
        files = self._tls or TlsFiles()
        self._opened = InferenceServerClient(
            self._url,
            ssl=self._tls is not None,
            root_certificates=_path(files.ca),
            certificate_chain=_path(files.certificate),
            private_key=_path(files.key),
            channel_args=CHANNEL,
        )

    async def close(self) -> None:
        """Close the channel; calls under way fail."""
        await end(*self._loads.values())  # a copy: each leaves when it ends
        if self._opened is not None:
            await self._opened.close()
            self._opened = None

    @property
    def _client(self) -> Any:
        if self._opened is None:
            raise RuntimeError("TritonInference is not open")
        return self._opened

    async def healthy(self) -> bool:
        """Whether the server is ready for requests now."""
        try:
            return bool(await self._client.is_server_ready(client_timeout=self._status_timeout_s))
        except InferenceServerException:
            return False

    async def model_names(self) -> frozenset[str]:
        """All models of the server's repository, loaded or not."""
        index = await self._status(self._client.get_model_repository_index)
        return frozenset(entry.name for entry in index.models)

    async def model(self, name: str, version: str | None = None) -> ServedModel:
        """One version of a model, read once; the model is loaded first where it is not.

        See `Inference.model`.
        """
        key = (name, version)
        known = self._models.get(key)
        if known is not None:
            return known
        async with self._locks[name]:  # one load, however many tasks ask for it
            if key not in self._models:
                self._models[key] = await self._read(name, version)
            return self._models[key]

    async def infer(
        self, model: ServedModel, inputs: dict[str, NDArray[Any]], *, priority: int = 2
    ) -> dict[str, NDArray[Any]]:
        """Run one request; the arrays that come back are read-only views of the answer.

        A model that the server has lost since, by a restart, is loaded again. Raises `JobFailed`
        (`inference_refused`), `RetryJob` (`inference_failed`, `model_version_not_found`),
        `Unavailable`.
        """
        tensors = [_tensor(name, array) for name, array in inputs.items()]
        try:
            result = await self._infer(model, tensors, priority)
        except InferenceServerException as error:
            await self._revive(model.name, error)
            if not _is_lost(error):
                raise _translated(error) from error
            current = await self._again(model)
            try:
                result = await self._infer(current, tensors, priority)
            except InferenceServerException as second:
                raise _translated(second) from second
        self.answered += 1
        return {
            output.name: _array(result, output.name) for output in result.get_response().outputs
        }

    async def _infer(self, model: ServedModel, tensors: list[Any], priority: int) -> InferResult:
        """One request under watch: a tile may take minutes, a server that hangs may not."""
        call = asyncio.ensure_future(self._send(model, tensors, priority))
        silent = 0
        try:
            while not (await asyncio.wait({call}, timeout=self._watch_s))[0]:
                silent = 0 if await self.healthy() else silent + 1
                if silent >= SILENT_WATCHES:
                    raise Unavailable("triton", "Triton does not answer any more")
            return call.result()
        finally:
            if not call.done():
                call.cancel()
                await asyncio.gather(call, return_exceptions=True)

    async def _send(self, model: ServedModel, tensors: list[Any], priority: int) -> InferResult:
        with self._tracing.inference(model) as trace:
            return await self._client.infer(
                model.name,
                tensors,
                model_version=model.version,
                priority=priority,
                # Triton does not tell a backend which priority a request has.
                parameters={"nereid_priority": priority},
                headers=trace,
                client_timeout=self._infer_timeout_s,
            )

    async def _again(self, lost: ServedModel) -> ServedModel:
        """The same version, loaded again. Raises `RetryJob` where it is gone for good."""
        self._forget(lost.name, lost)
        try:
            return await self.model(lost.name, lost.version)
        except (NotFound, JobFailed) as error:  # another attempt finds what serves then
            raise RetryJob(error.code, error.message) from error

    def _forget(self, name: str, model: ServedModel | None = None) -> bool:
        """Forget what was read of `name`: all, or `model` alone. Whether there was anything."""
        stale = [
            key
            for key, known in self._models.items()
            if key[0] == name and (model is None or known.version == model.version)
        ]
        for key in stale:
            del self._models[key]
        return bool(stale)

    async def _read(self, name: str, version: str | None) -> ServedModel:
        if name not in await self.model_names():
            raise NotFound("model_not_found", f"model: there is no model {name!r}.", field="model")
        ready = await self._ready_versions(name)
        if not ready or version not in (None, *ready):
            await self._load_in_time(name)
            ready = await self._ready_versions(name)
        wanted = version if version is not None else min(ready, key=int, default="")
        if wanted not in ready:
            raise _not_loaded(name, wanted, ready)
        return await self.describe(name, wanted)

    async def _load_in_time(self, name: str) -> None:
        """Load a model, which goes on behind whoever lost patience. Raises as `load` does."""
        loading = self._loads.get(name) or asyncio.create_task(self.load(name))
        try:
            await asyncio.wait({loading}, timeout=self._load_patience_s)
        except asyncio.CancelledError:
            await end(loading)
            raise
        if loading.done():
            self._loads.pop(name, None)
            return loading.result()
        if name not in self._loads:
            self._loads[name] = loading
            loading.add_done_callback(partial(self._loaded, name))
        message = f"Triton is still loading the model {name!r}"
        raise StillLoading(message, lambda: asyncio.shield(loading))

    def _loaded(self, name: str, loading: asyncio.Task[None]) -> None:
        self._loads.pop(name, None)
        if not loading.cancelled() and (error := loading.exception()) is not None:
            log.warning("%s could not be loaded: %s", name, error)

    async def describe(self, name: str, version: str) -> ServedModel:
        """See `ModelServer.describe`."""
        if not await self._status(self._client.is_model_ready, name, version):
            raise _not_loaded(name, version, [])
        answer = await self._status(self._client.get_model_config, name, version)
        config = answer.config
        parameters = {key: value.string_value for key, value in config.parameters.items()}
        return ServedModel(name, version, parameters, _specs(config.input), _specs(config.output))

    async def _ready_versions(self, name: str) -> list[str]:
        return [
            found.version
            for found in await self.versions()
            if found.model == name and found.state == "ready"
        ]

    def report(self, model: ServedModel, problem: str | None = None) -> None:
        """See `Inference.report`; `gateway.adapters.observed` counts such words."""
        if problem is not None:
            log.warning("%s version %s failed a job: %s", model.name, model.version, problem)

    async def versions(self) -> list[ModelVersion]:
        """See `ModelServer.versions`."""
        index = await self._status(self._client.get_model_repository_index)
        found = [
            ModelVersion(entry.name, entry.version, _state(entry), entry.reason.strip())
            for entry in index.models
        ]
        return sorted(found, key=lambda v: (v.model, int(v.version or 0)))

    async def statistics(self) -> dict[tuple[str, str], VersionStatistics]:
        """See `ModelServer.statistics`."""
        answer = await self._status(self._client.get_inference_statistics)
        return {(one.name, one.version): _statistics(one) for one in answer.model_stats}

    async def load(
        self,
        name: str,
        *,
        config: str | None = None,
        files: Mapping[str, bytes] | None = None,
    ) -> None:
        """See `ModelServer.load`."""
        given = None if files is None else {f"file:{path}": data for path, data in files.items()}
        try:
            await self._client.load_model(
                name, config=config, files=given, client_timeout=self._load_timeout_s
            )
        except InferenceServerException as error:
            if _is_sick(error):
                raise _translated(error) from error
            message = f"Triton cannot load the model {name!r}: {error.message()}"
            raise JobFailed("model_not_loadable", message) from error

    async def unload(self, name: str) -> None:
        """See `ModelServer.unload`."""
        self._forget(name)
        await self._status(self._client.unload_model, name)

    async def _revive(self, name: str, error: InferenceServerException) -> None:
        """Load a model anew whose backend has died; the server would never do so by itself."""
        if DEAD_BACKEND not in str(error.message()).lower():
            return
        async with self._locks[name]:
            if self._forget(name):  # else another task has done it
                await self._status(self._client.unload_model, name)

    async def _status(self, call: Any, *arguments: str) -> Any:
        """A call that answers at once or not at all."""
        answer: Awaitable[Any] = call(*arguments, client_timeout=self._status_timeout_s)
        try:
            return await answer
        except InferenceServerException as error:
            raise _translated(error) from error


def _path(file: Path | None) -> str | None:
    return None if file is None else str(file)


def _specs(tensors: Any) -> dict[str, TensorSpec]:
    """Inputs or outputs of a configuration, which Triton has completed and writes without batch."""
    return {
        tensor.name: TensorSpec(
            DataType.Name(tensor.data_type).removeprefix("TYPE_"), tuple(tensor.dims)
        )
        for tensor in tensors
    }


def _not_loaded(name: str, version: str, ready: list[str]) -> NotFound:
    return NotFound(
        "model_version_not_found",
        f"version: {name} has no version {version} that is loaded; loaded:"
        f" {', '.join(ready) or 'none'}",
        field="version",
    )


def _state(entry: Any) -> VersionState:
    """The state of a version in Triton's index; one that it has unloaded is UNAVAILABLE there."""
    known: dict[str, VersionState] = {
        "READY": "ready",
        "LOADING": "loading",
        "UNLOADING": "unloading",
        "UNAVAILABLE": "unavailable",
    }
    if entry.state == "UNAVAILABLE" and entry.reason in ("", "unloaded"):
        return "unloaded"
    return known.get(entry.state, "unloaded")


def _statistics(one: Any) -> VersionStatistics:
    """Triton's statistics of a version, in which times are nanoseconds."""
    done = one.inference_stats
    parts = (done.compute_input, done.compute_infer, done.compute_output)
    return VersionStatistics(
        requests=done.success.count,
        failures=done.fail.count,
        executions=one.execution_count,
        queue_s=done.queue.ns / 1e9,
        compute_s=sum(part.ns for part in parts) / 1e9,
    )


def _tensor(name: str, array: NDArray[Any]) -> InferInput:
    tensor = InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    tensor.set_data_from_numpy(array)  # the one copy that gRPC needs
    return tensor


def _array(result: InferResult, name: str) -> NDArray[Any]:
    array = result.as_numpy(name)
    if array is None:
        raise RetryJob("inference_failed", f"Triton left out the output {name!r}.")
    return np.asarray(array)


def _is_lost(error: InferenceServerException) -> bool:
    """Whether the server runs and has not loaded this model or this version of it."""
    message = str(error.message())
    unknown = "unknown model" in message or "is not ready" in message
    return unknown and error.status() in ("StatusCode.NOT_FOUND", "StatusCode.UNAVAILABLE")


def _is_sick(error: InferenceServerException) -> bool:
    """Whether the server, not the request or the model, is at fault."""
    message = str(error.message()).lower()
    if error.status() == "StatusCode.INVALID_ARGUMENT":
        return any(word in message for word in OUT_OF_MEMORY)
    return (
        error.status() in SICK
        or DEAD_BACKEND in message
        or any(word in message for word in OUT_OF_MEMORY)
    )


SICK = {
    "StatusCode.UNAVAILABLE",
    "StatusCode.DEADLINE_EXCEEDED",
    "StatusCode.RESOURCE_EXHAUSTED",
    "StatusCode.CANCELLED",
}


def _translated(error: InferenceServerException) -> NereidError:
    """Nereid's error for one of Triton's."""
    message = str(error.message())
    if _is_sick(error):
        no_memory = any(word in message.lower() for word in OUT_OF_MEMORY)
        kind = OutOfMemory if no_memory else Unavailable
        return kind("triton", f"Triton: {message}")
    if error.status() == "StatusCode.INVALID_ARGUMENT":
        return JobFailed("inference_refused", f"Triton refused the request: {message}")
    return RetryJob("inference_failed", f"Triton failed: {message}")
