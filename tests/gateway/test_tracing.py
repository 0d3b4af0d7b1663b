"""Traces: off they cost nothing, on they neither fail nor hold up the work."""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from functions._kit.errors import NotFound
from functions._kit.messages import Message
from functions._kit.ports import ServedModel
from gateway.adapters.jetstream import JetStream, StreamLimits, connect, ensure_streams
from gateway.settings import Settings, SettingsError
from gateway.system import triton_settings
from gateway.tracing import TRACEPARENT, Tracing, open_tracing, otlp
from gateway.tracing.endpoint import parse_headers, traces_url
from gateway.worker.delivery import Delivery
from tests.collector import Collector, Span
from tests.gateway.test_worker import random_word

OFF = """
import asyncio, sys
import gateway.processes, gateway.cli.main, gateway.cli.up
from gateway.tracing import UNTRACED, open_tracing
async def main():
    async with open_tracing(None, headers=None, ratio=1.0, service="s", version="0") as tracing:
        assert tracing is UNTRACED
        with tracing.publish("jobs.x", None, 0) as headers:
            assert headers == {}
asyncio.run(main())
print([name for name in sys.modules if name.startswith("opentelemetry")])
"""
PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-{}"


class Thing(Message, frozen=True, kw_only=True):
    """A job of the test's own."""


@asynccontextmanager
async def tracing_to(endpoint: str, ratio: float = 1.0) -> AsyncIterator[Tracing]:
    async with open_tracing(
        endpoint, headers="x-token=abc", ratio=ratio, service="test", version="0"
    ) as tracing:
        yield tracing


def scope(path: str = "/x", **headers: str) -> Any:
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    return {
        "type": "http",
        "method": "GET",
        "path": path,
        "scheme": "http",
        "http_version": "1.1",
        "headers": pairs,
    }


def test_off_not_even_the_library_is_imported() -> None:
    done = subprocess.run(
        [sys.executable, "-c", OFF], capture_output=True, text=True, check=True, env={}
    )
    assert done.stdout.strip() == "[]"


async def test_off_a_message_carries_no_trace(nats_url: str) -> None:
    client = await connect(nats_url, name="test")
    await ensure_streams(client, StreamLimits())
    subject = f"jobs.test.{random_word()}"
    await JetStream(client).publish(subject, Thing(), message_id=subject)
    message = await client.jetstream().get_last_msg("JOBS", subject)
    assert message.headers == {"Nats-Msg-Id": subject}
    await client.close()


async def test_a_message_that_is_handed_back_stays_in_its_trace(nats_url: str) -> None:
    client = await connect(nats_url, name="test")
    await ensure_streams(client, StreamLimits())
    subject, stream = f"jobs.test.{random_word()}", JetStream(client)
    parent = PARENT.format("01")
    subscription = await client.jetstream().pull_subscribe(subject, random_word(), stream="JOBS")
    await stream.publish_bytes(subject, b"{}", headers={TRACEPARENT: parent})
    (message,) = await subscription.fetch(1)
    assert await Delivery(message).hand_back(stream)
    (again,) = await subscription.fetch(1)
    assert again.headers is not None
    assert again.headers[TRACEPARENT] == parent
    assert not await Delivery(message).hand_back(stream), "it is over"
    await client.close()


async def test_what_a_process_does_by_itself_makes_no_spans() -> None:
    with Collector() as collector:
        async with tracing_to(collector.url) as tracing:
            with tracing.publish("events.counts", None, 9) as headers:
                assert headers == {}
            with tracing.storage("GetObject", "bucket", "key"):
                pass
            for path in ("/health/ready", "/metrics"):
                with tracing.request(scope(path)):
                    pass
    assert collector.spans == []


async def test_spans_are_children_of_the_caller_and_errors_show_their_code() -> None:
    with Collector() as collector:
        async with tracing_to(collector.url) as tracing:
            with tracing.request(scope(traceparent=PARENT.format("01"))) as request:
                with pytest.raises(NotFound), tracing.storage("GetObject", "bucket", "a/key"):
                    raise NotFound("file_not_found", "there is no file", field="file_path")
                request.answered(scope(), 503)
    by_name: dict[str, Span] = {span.name: span for span in collector.spans}
    outer, inner = by_name["GET"], by_name["S3.GetObject"]
    assert (outer.trace_id, outer.parent_id) == tuple(PARENT.split("-")[1:3])
    assert (inner.trace_id, inner.parent_id) == (outer.trace_id, outer.span_id)
    assert (inner.status, inner.attributes["error.type"]) == ("ERROR", "file_not_found")
    assert inner.attributes["aws.s3.key"] == "a/key"
    assert (outer.status, outer.attributes["http.response.status_code"]) == ("ERROR", 503)
    assert collector.headers[0]["x-token"] == "abc"


@pytest.mark.parametrize(("flags", "ratio", "kept"), [("00", 1.0, 0), ("01", 0.0, 1), ("", 0.0, 0)])
async def test_a_callers_decision_holds_before_the_ratio(
    flags: str, ratio: float, kept: int
) -> None:
    headers = {"traceparent": PARENT.format(flags)} if flags else {}
    with Collector() as collector:
        async with tracing_to(collector.url, ratio) as tracing:
            with tracing.request(scope(**headers)), tracing.publish("jobs.x", None, 1) as sent:
                sampled = int(sent["traceparent"][-2:], 16) & 1
                assert sampled == kept, "passed on"
    assert len(collector.spans) == 2 * kept


async def test_a_batch_has_a_span_for_each_message_in_its_own_trace() -> None:
    parents = [PARENT.format("01"), PARENT.format("01").replace("4bf9", "5bf9")]
    deliveries: list[Any] = [
        SimpleNamespace(
            subject=f"events.task.{number}",
            data=b"{}",
            attempt=1,
            span=None,
            headers={"traceparent": parent},
        )
        for number, parent in enumerate(parents)
    ]
    progress = SimpleNamespace(
        subject="events.task.0", data=b"{}", attempt=1, span=None, headers={}
    )
    deliveries.insert(0, progress)
    with Collector() as collector:
        async with tracing_to(collector.url) as tracing:
            with tracing.processing("tasks.record", deliveries):
                with tracing.publish("jobs.tasks.webhook", "id", 2):
                    pass
                tracing.failed(deliveries[2], "hiccup")
            with tracing.processing("tasks.record", [progress]):  # type: ignore[list-item]
                tracing.failed(progress, "nobody hears it")  # type: ignore[arg-type]
    first, second = sorted(
        (span for span in collector.spans if span.kind == "CONSUMER"), key=lambda s: s.trace_id
    )
    assert [span.trace_id for span in (first, second)] == [p.split("-")[1] for p in parents]
    assert len(collector.spans) == 3, "a task's progress begins no trace"
    assert first.name == second.name == "process events.task.*"
    assert first.attributes["messaging.batch.message_count"] == 3
    assert first.attributes["messaging.destination.name"] == "events.task.0"
    assert (first.status, second.status) == ("UNSET", "ERROR")
    assert second.attributes["error.type"] == "hiccup"
    (published,) = [span for span in collector.spans if span.kind == "PRODUCER"]
    assert published.parent_id == first.span_id


@pytest.mark.parametrize("ratio", [0.0, 1.0])
async def test_triton_is_told_of_a_trace_that_is_kept_alone(ratio: float) -> None:
    with Collector() as collector:
        async with tracing_to(collector.url, ratio) as tracing:
            with tracing.request(scope()), tracing.inference(ServedModel("m", "1", {})) as told:
                assert (told is not None and "traceparent" in told) is bool(ratio)


async def test_the_embedded_triton_sends_its_spans_where_the_settings_say() -> None:
    off, on = Settings(), Settings(otlp_endpoint="http://collector:4318", otlp_headers="a=b")
    assert (await triton_settings(off)).traces_url == ""
    assert (await triton_settings(on)).traces_url == "http://collector:4318/v1/traces"
    assert (await triton_settings(on)).traces_headers == "a=b"


async def test_two_apps_of_one_process_keep_their_spans_apart() -> None:
    with Collector() as one, Collector() as other:
        async with tracing_to(one.url) as first, tracing_to(other.url) as second:
            with first.request(scope("/one")):
                pass
            with second.request(scope("/other")):
                pass
    assert [span.attributes["url.path"] for span in one.spans] == ["/one"]
    assert [span.attributes["url.path"] for span in other.spans] == ["/other"]


@pytest.mark.parametrize("listens", [True, False])
async def test_a_collector_that_hangs_or_is_away_holds_up_neither_the_work_nor_the_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, *, listens: bool
) -> None:
    monkeypatch.setattr(otlp, "FLUSH_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, never answers
        port = silent.getsockname()[1]
        if not listens:
            silent.close()
        with caplog.at_level(logging.WARNING):
            async with tracing_to(f"http://127.0.0.1:{port}") as tracing:
                for _ in range(5000):  # more than its queue holds
                    with tracing.request(scope()):
                        pass
    assert "the last spans were not sent" in caplog.text


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("http://collector:4318", "http://collector:4318/v1/traces"),
        ("http://collector:4318/", "http://collector:4318/v1/traces"),
        ("https://host/otlp/v1/traces", "https://host/otlp/v1/traces"),
        ("https://host/otlp", "https://host/otlp/v1/traces"),
    ],
)
def test_the_endpoint_is_the_collectors_address(given: str, url: str) -> None:
    assert traces_url(given) == url


@pytest.mark.parametrize("given", ["collector:4318", "grpc://collector:4317", "http://"])
def test_an_endpoint_that_is_none_is_refused(given: str) -> None:
    with pytest.raises(SettingsError, match="NEREID_OTLP_ENDPOINT"):
        traces_url(given)


def test_headers_are_pairs_and_a_mistake_shows_no_secret() -> None:
    assert parse_headers(None) == {}
    assert parse_headers("a=b, authorization=Bearer x=y ,") == {
        "a": "b",
        "authorization": "Bearer x=y",
    }
    with pytest.raises(SettingsError) as refused:
        parse_headers("hunter2")
    assert "hunter2" not in str(refused.value)
