"""A gRPC server before a Triton, that can refuse, hang, or say that its memory is full."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc  # type: ignore[import-untyped]
import grpc.aio  # type: ignore[import-untyped]

INFER = "/inference.GRPCInferenceService/ModelInfer"
OPTIONS = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
OUT_OF_MEMORY = (
    (grpc.StatusCode.RESOURCE_EXHAUSTED, "CUDA out of memory. Tried to allocate 1.24 GiB"),
    (grpc.StatusCode.INTERNAL, "failed to allocate memory: CUDA out of memory"),
)
"""As PyTorch and TensorRT say it, under the codes that Triton passes on."""
REFUSED = (grpc.StatusCode.UNAVAILABLE, "failed to connect to all addresses")
WAIT_S = 0.05


class Door(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Forwards every call as it came, while `mood` is ""."""

    def __init__(self, upstream: Any) -> None:
        self.url = ""
        self.mood = ""
        """"triton refuses", "triton hangs", "triton out of memory", or ""."""
        self.spoilt = 0
        """Calls that did not get through."""
        self._upstream = upstream
        self._answers = itertools.cycle(OUT_OF_MEMORY)

    def service(self, handler_call_details: Any) -> Any:
        """The handler of any method, in bytes."""
        method = handler_call_details.method

        async def forward(request: bytes, context: Any) -> bytes:
            await self._spoil(method, context)
            try:
                answer: bytes = await self._upstream.unary_unary(method)(
                    request, timeout=context.time_remaining()
                )
            except grpc.aio.AioRpcError as error:
                await context.abort(error.code(), error.details())
                raise
            return answer

        return grpc.unary_unary_rpc_method_handler(forward)

    async def _spoil(self, method: str, context: Any) -> None:
        if not self.mood:
            return
        if self.mood == "triton out of memory":
            if method == INFER:
                self.spoilt += 1
                await context.abort(*next(self._answers))
            return
        self.spoilt += 1
        if self.mood == "triton refuses":
            await context.abort(*REFUSED)
        while self.mood == "triton hangs":
            await asyncio.sleep(WAIT_S)


@asynccontextmanager
async def door_to(url: str) -> AsyncIterator[Door]:
    """A door before the Triton at `url` (host:port), at a free port of its own."""
    async with grpc.aio.insecure_channel(url, options=OPTIONS) as upstream:
        door = Door(upstream)
        server = grpc.aio.server(options=OPTIONS)
        server.add_generic_rpc_handlers((door,))
        door.url = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        try:
            yield door
        finally:
            door.mood = ""
            await server.stop(grace=1)
