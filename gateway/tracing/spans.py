"""Spans by OpenTelemetry's semantic conventions: HTTP, messaging, RPC, AWS SDK.

Neither clients' names nor anything of a body becomes an attribute; ids of tasks and keys of
objects do, as in the log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from litestar.datastructures import Headers
from litestar.types import HTTPScope
from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, get_current_span, use_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from functions._kit.errors import NereidError
from functions._kit.ports import ServedModel
from gateway.tracing import METHODS, TRACEPARENT

if TYPE_CHECKING:
    from gateway.worker.delivery import Delivery

UNTRACED_PATHS = ("/health/", "/metrics")
"""Asked every few seconds by machines; their traces would bury all others."""
BY_ID = ("events.task", "events.alert", "frames")
"""Subjects that end in an id, which a span's name must not hold."""
INFER = "inference.GRPCInferenceService/ModelInfer"


class OpenTelemetryTracing:
    """The port `Tracing` over a tracer provider of its own: nothing here is global."""

    def __init__(self, provider: TracerProvider, version: str) -> None:
        self._tracer = provider.get_tracer("nereid", version)
        self._context = TraceContextTextMapPropagator()

    @contextmanager
    def request(self, scope: HTTPScope) -> Iterator[_Request]:
        """See `Tracing.request`."""
        if scope["path"].startswith(UNTRACED_PATHS):
            yield _Request(None)
            return
        method = scope["method"] if scope["method"] in METHODS else "_OTHER"
        attributes = {
            "http.request.method": method,
            "url.path": scope["path"],
            "url.scheme": scope["scheme"],
            "network.protocol.version": scope["http_version"],
        }
        parent = self._parent(Headers.from_scope(scope))
        with self._span(method, SpanKind.SERVER, attributes, parent) as span:
            yield _Request(span)

    @contextmanager
    def publish(
        self, subject: str, message_id: str | None, size: int
    ) -> Iterator[Mapping[str, str]]:
        """See `Tracing.publish`."""
        if not _in_a_trace():
            yield {}
            return
        attributes: dict[str, AttributeValue] = {
            **_destination(subject, "publish", "send"),
            "messaging.message.body.size": size,
        }
        if message_id is not None:
            attributes["messaging.message.id"] = message_id
        with self._span(f"publish {_template(subject)}", SpanKind.PRODUCER, attributes):
            yield self._headers()

    @contextmanager
    def processing(self, function: str, deliveries: Sequence[Delivery]) -> Iterator[None]:
        """See `Tracing.processing`. The work itself is done within the first message's span.

        A fact that nobody traced, such as a task's progress, begins no trace.
        """
        traced = [d for d in deliveries if TRACEPARENT in d.headers or not _is_fact(d.subject)]
        with ExitStack() as stack:
            for delivery in traced:
                attributes: dict[str, AttributeValue] = {
                    **_destination(delivery.subject, "process", "process"),
                    "messaging.message.body.size": len(delivery.data),
                    "messaging.batch.message_count": len(deliveries),
                    "nereid.function": function,
                    "nereid.attempt": delivery.attempt,
                }
                if len(deliveries) == 1:
                    del attributes["messaging.batch.message_count"]
                delivery.span = span = self._tracer.start_span(
                    f"process {_template(delivery.subject)}",
                    context=self._parent(delivery.headers),
                    kind=SpanKind.CONSUMER,
                    attributes=attributes,
                )
                stack.callback(span.end)
            if traced:
                stack.enter_context(_current(traced[0].span))
            yield

    def failed(self, delivery: Delivery, code: str) -> None:
        """See `Tracing.failed`."""
        if isinstance(delivery.span, Span):
            _fail(delivery.span, code)

    @contextmanager
    def storage(self, operation: str, bucket: str, key: str) -> Iterator[None]:
        """See `Tracing.storage`."""
        if not _in_a_trace():
            yield
            return
        attributes = {
            "rpc.system": "aws-api",
            "rpc.service": "S3",
            "rpc.method": operation,
            "aws.s3.bucket": bucket,
            "aws.s3.key": key,
        }
        with self._span(f"S3.{operation}", SpanKind.CLIENT, attributes):
            yield

    @contextmanager
    def inference(self, model: ServedModel) -> Iterator[Mapping[str, str] | None]:
        """See `Tracing.inference`."""
        if not _in_a_trace():
            yield None
            return
        service, _, method = INFER.partition("/")
        attributes = {
            "rpc.system": "grpc",
            "rpc.service": service,
            "rpc.method": method,
            "nereid.model": model.name,
            "nereid.model_version": model.version,
        }
        with self._span(INFER, SpanKind.CLIENT, attributes) as span:
            # Triton traces whatever comes with a context, whether that is kept or not
            yield self._headers() if span.is_recording() else None

    @contextmanager
    def _span(
        self,
        name: str,
        kind: SpanKind,
        attributes: Mapping[str, AttributeValue],
        context: Context | None = None,
    ) -> Iterator[Span]:
        """The current span within the block, marked where that raises."""
        span = self._tracer.start_span(name, context=context, kind=kind, attributes=attributes)
        try:
            with _current(span):
                yield span
        except (Exception, asyncio.CancelledError) as error:
            _fail(span, error.code if isinstance(error, NereidError) else type(error).__name__)
            raise
        finally:
            span.end()

    def _headers(self) -> dict[str, str]:
        carrier: dict[str, str] = {}
        self._context.inject(carrier)
        return carrier

    def _parent(self, headers: Mapping[str, str]) -> Context:
        """The context in `headers`, or an empty one: never that of whoever happens to call."""
        return self._context.extract(headers, Context())


class _Request:
    """See `RequestSpan`."""

    def __init__(self, span: Span | None) -> None:
        self._span = span

    def answered(self, scope: HTTPScope, status: int) -> None:
        if self._span is None:
            return
        handler = scope.get("route_handler")
        if handler is not None:
            route = scope.get("path_template") or scope["path"]
            self._span.update_name(f"{scope['method']} {route}")
            self._span.set_attribute("http.route", str(route))
            self._span.set_attribute("nereid.function", str(handler.opt.get("function", "")))
        self._span.set_attribute("http.response.status_code", status)
        if status >= 500:
            _fail(self._span, str(status))


@contextmanager
def _current(span: Span) -> Iterator[None]:
    # errors are marked by us: the library would write messages into the span that hold paths
    with use_span(span, record_exception=False, set_status_on_exception=False):
        yield


def _in_a_trace() -> bool:
    return get_current_span().get_span_context().is_valid


def _fail(span: Span, code: str) -> None:
    span.set_status(Status(StatusCode.ERROR))
    span.set_attribute("error.type", code)


def _destination(subject: str, name: str, kind: str) -> dict[str, AttributeValue]:
    return {
        "messaging.system": "nats",
        "messaging.destination.name": subject,
        "messaging.destination.template": _template(subject),
        "messaging.operation.name": name,
        "messaging.operation.type": kind,
    }


def _is_fact(subject: str) -> bool:
    return subject.startswith("events.")


def _template(subject: str) -> str:
    """The subject with its id left out."""
    known = next((begin for begin in BY_ID if subject.startswith(f"{begin}.")), None)
    return subject if known is None else f"{known}.*"
