"""What our backends share: how a request is answered, and in which words it is refused.

Triton loads the `model.py` of each backend's folder by itself and knows nothing of this file, which
each finds beside its own folder.
"""

from __future__ import annotations

from typing import Any

import triton_python_backend_utils as pb_utils

# How the C++ allocator, the kernel (ENOMEM), oneDNN and ONNX Runtime say that memory ran out.
OUT_OF_MEMORY = (
    "bad_alloc",
    "allocate",
    "out of memory",
    "could not create a memory object",
)


class RefusedError(Exception):
    """The request is at fault."""


class CancelledError(Exception):
    """Nobody waits for the answer any more."""


def send(sender: Any, response: Any) -> None:
    """Give the one and only answer to a request."""
    sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


def translate(error: Exception) -> Any:
    """Tell a client whether it, the machine, or the model is at fault."""
    text = str(error)
    if isinstance(error, CancelledError):
        return pb_utils.TritonError("cancelled", pb_utils.TritonError.CANCELLED)
    if isinstance(error, RefusedError):
        return pb_utils.TritonError(text, pb_utils.TritonError.INVALID_ARG)
    if isinstance(error, MemoryError) or any(word in text.lower() for word in OUT_OF_MEMORY):
        return pb_utils.TritonError(f"out of memory: {text}", pb_utils.TritonError.UNAVAILABLE)
    return pb_utils.TritonError(f"inference failed: {text}", pb_utils.TritonError.INTERNAL)
