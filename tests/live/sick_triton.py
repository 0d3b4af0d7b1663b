"""A door before Triton that can answer every inference as a GPU without memory does."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc  # type: ignore[import-untyped]
import grpc.aio  # type: ignore[import-untyped]

INFER = "/inference.GRPCInferenceService/ModelInfer"
OPTIONS = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
ANSWERS = (
    (grpc.StatusCode.RESOURCE_EXHAUSTED, "CUDA out of memory. Tried to allocate 1.24 GiB"),
    (grpc.StatusCode.INTERNAL, "failed to allocate memory: CUDA out of memory"),
)
"""As PyTorch and TensorRT say it, under the codes that Triton passes on."""


@dataclass
class SickTriton(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Forwards every call as it came; inferences fail while `out_of_memory`."""

    upstream: Any
    url: str = ""
    out_of_memory: bool = False
    refused: int = 0
    answers: Any = field(default_factory=lambda: itertools.cycle(ANSWERS))

    def service(self, handler_call_details: Any) -> Any:
        """The handler of any method, in bytes."""
        method = handler_call_details.method

        async def forward(request: bytes, context: Any) -> bytes:
            if method == INFER and self.out_of_memory:
                self.refused += 1
                await context.abort(*next(self.answers))
            try:
                answer: bytes = await self.upstream.unary_unary(method)(request)
            except grpc.aio.AioRpcError as error:
                await context.abort(error.code(), error.details())
                raise
            return answer

        return grpc.unary_unary_rpc_method_handler(forward)


@asynccontextmanager
async def sick_triton(url: str) -> AsyncIterator[SickTriton]:
    """A door before the Triton at `url` (host:port), at a free port of its own."""
    async with grpc.aio.insecure_channel(url, options=OPTIONS) as upstream:
        door = SickTriton(upstream)
        server = grpc.aio.server(options=OPTIONS)
        server.add_generic_rpc_handlers((door,))
        door.url = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        try:
            yield door
        finally:
            await server.stop(grace=1)
