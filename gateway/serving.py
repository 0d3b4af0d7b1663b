"""Uvicorn under our own signals: what answers HTTP in a gateway, and in a worker for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn


class Server(uvicorn.Server):
    """Uvicorn without its own signals: it would raise them again and end us before we close."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to `stopped_by_signals`."""
        yield
