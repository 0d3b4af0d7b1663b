"""One trace from HTTP through NATS to Triton and S3: where its spans begin and end.

Off, each costs a call that does nothing, and the library is not even imported.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from typing import TYPE_CHECKING, Protocol

from litestar.types import HTTPScope

from functions._kit.ports import ServedModel

if TYPE_CHECKING:
    from gateway.worker.delivery import Delivery

TRACEPARENT = "traceparent"
"""W3C Trace Context's header, in HTTP, NATS and gRPC alike."""
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
"""A client may send any word as a method; others than these are one and the same."""


class RequestSpan(Protocol):
    """The span of an HTTP request."""

    def answered(self, scope: HTTPScope, status: int) -> None:
        """Tell which function answered, and how; 0 where nothing was sent."""
        ...


class Tracing(Protocol):
    """Makes spans; a block's span is the current one within it.

    Publishing, S3 and Triton make spans only within a request or the work on a message: what a
    process does by itself (figures, health, progress) makes none.
    """

    def request(self, scope: HTTPScope, /) -> AbstractContextManager[RequestSpan]:
        """An HTTP request, a child of the caller's `traceparent`."""
        ...

    def publish(
        self, subject: str, message_id: str | None, size: int, /
    ) -> AbstractContextManager[Mapping[str, str]]:
        """A publish to JetStream; gives the headers that carry the trace on."""
        ...

    def processing(
        self, function: str, deliveries: Sequence[Delivery], /
    ) -> AbstractContextManager[None]:
        """Work on messages: a span for each, in the trace that published it."""
        ...

    def failed(self, delivery: Delivery, code: str, /) -> None:
        """The work on `delivery` has failed, with a stable code."""
        ...

    def storage(self, operation: str, bucket: str, key: str, /) -> AbstractContextManager[None]:
        """A request to S3, by its name in S3's API."""
        ...

    def inference(self, model: ServedModel, /) -> AbstractContextManager[Mapping[str, str] | None]:
        """An inference by Triton; gives the gRPC metadata that carries the trace on."""
        ...


class _Unwatched:
    def answered(self, scope: HTTPScope, status: int) -> None:
        pass


_REQUEST = nullcontext(_Unwatched())
_HEADERS: nullcontext[Mapping[str, str]] = nullcontext({})
_NOTHING = nullcontext(None)


class Untraced:
    """Tracing is off."""

    def request(self, *_: object) -> AbstractContextManager[RequestSpan]:
        """No span."""
        return _REQUEST

    def publish(self, *_: object) -> AbstractContextManager[Mapping[str, str]]:
        """No span, no headers."""
        return _HEADERS

    def processing(self, *_: object) -> AbstractContextManager[None]:
        """No span."""
        return _NOTHING

    def failed(self, *_: object) -> None:
        """No span, nothing to say."""

    def storage(self, *_: object) -> AbstractContextManager[None]:
        """No span."""
        return _NOTHING

    def inference(self, *_: object) -> AbstractContextManager[Mapping[str, str] | None]:
        """No span, no metadata."""
        return _NOTHING


UNTRACED = Untraced()


@asynccontextmanager
async def open_tracing(
    endpoint: str | None, *, headers: str | None, ratio: float, service: str, version: str
) -> AsyncIterator[Tracing]:
    """Export spans to the OTLP/HTTP collector at `endpoint` within the block; None is off.

    Close it last: at its end the last spans are sent, within some seconds. Raises
    `SettingsError`.
    """
    if endpoint is None:
        yield UNTRACED
        return
    from gateway.tracing.otlp import exporting  # noqa: PLC0415 - some 200 ms that most never need

    async with exporting(
        endpoint, headers=headers, ratio=ratio, service=service, version=version
    ) as tracing:
        yield tracing
