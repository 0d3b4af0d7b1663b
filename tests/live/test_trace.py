"""One photo through gateway and worker as their processes build them: its trace, their metrics."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from functions._kit.ports import Client
from functions._kit.secrets import hash_secret
from gateway.auth import api_key_lookup
from gateway.embedded import EmbeddedServers, EmbeddedSettings, Name, TritonSettings
from gateway.metrics import catalogue
from gateway.processes import gateway_app, worker_of
from gateway.registry import discover, select
from gateway.runtime import Runtime, open_runtime
from gateway.settings import Settings
from gateway.tracing.endpoint import traces_url
from tests.collector import Collector, Span
from tests.conftest import Servers
from tests.live.conftest import Api

SECRET = "a secret of the tests, of 256 bits or more"
FUNCTIONS = ("media.upscale", "media.thumbnail", "tasks.record")
CALLER = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
HEADERS = "x-token=of the collector"
KEY = "a-key-that-no-span-may-show"
TRACE_ID, CALLERS_SPAN = CALLER.split("-")[1:3]


@dataclass
class Whole:
    """A gateway and a worker in this process, over real servers."""

    api: Api
    gateway: Runtime
    worker: Runtime


@asynccontextmanager
async def whole(
    servers: Servers, database_url: str, folder: Path, otlp_endpoint: str | None = None
) -> AsyncIterator[Whole]:
    async with AsyncExitStack() as stack:
        want: set[Name] = {"nats"}  # no other test's jobs
        triton = TritonSettings()
        if otlp_endpoint is not None:
            want.add("triton")
            triton = TritonSettings(traces_url=traces_url(otlp_endpoint), traces_headers=HEADERS)
        settings = EmbeddedSettings(triton=triton)
        own = EmbeddedServers(folder / "own", want=want, settings=settings)
        await stack.enter_async_context(own)
        configured = Settings(
            data=folder,
            nats_url=own.nats.url,
            s3_endpoint=servers.s3.endpoint,
            s3_access_key=servers.s3.access_key,
            s3_secret_key=servers.s3.secret_key,
            s3_bucket=servers.s3.bucket,
            triton_url=(own if otlp_endpoint else servers).triton.url,
            database_url=database_url,
            token_secret=SECRET,
            webhook_secret=SECRET,
            otlp_endpoint=otlp_endpoint,
            otlp_headers=HEADERS,
        )
        gateway = await stack.enter_async_context(open_runtime(configured, name="nereid-serve"))
        work = await stack.enter_async_context(open_runtime(configured, name="nereid-work"))
        await gateway.clients.add(
            Client(
                client_id="me",
                secret_hash="-",
                scopes=frozenset({"media:read", "media:write", "system:read"}),
                api_key_lookup=api_key_lookup(SECRET, KEY),
                api_key_hash=hash_secret(KEY),
            )
        )
        functions = select(discover(), FUNCTIONS)
        worker = worker_of(configured, work, functions, lambda _: None)
        stop, ready = asyncio.Event(), asyncio.Event()
        running = asyncio.create_task(worker.run(stop, ready))
        try:
            await ready.wait()
            http = httpx.AsyncClient(
                transport=httpx.ASGITransport(gateway_app(configured, gateway)),  # type: ignore[arg-type]
                base_url="http://nereid.test",
                headers={"X-API-Key": KEY},
            )
            yield Whole(Api(await stack.enter_async_context(http)), gateway, work)
        finally:
            stop.set()
            await running


async def recorded(it: Whole, task_id: str) -> None:
    async with asyncio.timeout(60):
        while (await it.api.status(task_id))["status"] != "completed":
            await asyncio.sleep(0.05)


def chain(spans: list[Span], last: Span) -> list[str]:
    """Names from the root to `last`."""
    by_id = {span.span_id: span for span in spans}
    names = [last.name]
    while last.parent_id in by_id:
        last = by_id[last.parent_id]
        names.insert(0, last.name)
    return names


async def test_a_task_is_one_trace_from_the_request_to_the_database(
    servers: Servers, database_url: str, tmp_path: Path, photo: bytes
) -> None:
    with Collector() as collector:
        async with whole(servers, database_url, tmp_path, otlp_endpoint=collector.url) as it:
            path = await it.api.upload(photo)
            it.api.http.headers["traceparent"] = CALLER
            task_id = await it.api.process(path)
            del it.api.http.headers["traceparent"]
            await recorded(it, task_id)
            await it.api.http.get("/health/live")
    spans = [span for span in collector.spans if span.trace_id == TRACE_ID]
    (request,) = [span for span in spans if span.name == "POST /api/v1/media:process"]
    assert request.parent_id == CALLERS_SPAN
    assert (request.kind, request.service) == ("SERVER", "nereid-serve")
    assert request.attributes["http.route"] == "/api/v1/media:process"
    assert request.attributes["http.response.status_code"] == 202
    assert request.attributes["nereid.function"] == "media.process"

    def way_of(name: str, **attributes: str) -> list[list[str]]:
        wanted = {key.replace("__", "."): value for key, value in attributes.items()}
        return [
            chain(spans, span)
            for span in spans
            if span.name == name and wanted.items() <= span.attributes.items()
        ]

    begin = ["POST /api/v1/media:process", "publish jobs.media.upscale.normal"]
    upscale = [*begin, "process jobs.media.upscale.normal"]
    infer = "inference.GRPCInferenceService/ModelInfer"
    assert [*upscale, "S3.GetObject"] in way_of("S3.GetObject")
    assert [*upscale, infer] in way_of(infer)
    assert [*upscale, "S3.PutObject"] in way_of("S3.PutObject")
    thumbnail = [
        *(*upscale, "publish jobs.media.thumbnail.normal"),
        "process jobs.media.thumbnail.normal",
    ]
    final = [*thumbnail, "publish events.task.*", "process events.task.*"]
    assert final in way_of("process events.task.*", nereid__function="tasks.record")
    assert all(span.status != "ERROR" for span in spans)

    (job,) = [span for span in spans if span.name == "process jobs.media.upscale.normal"]
    assert job.service == "nereid-work"
    assert job.attributes["messaging.system"] == "nats"
    assert job.attributes["nereid.attempt"] == 1
    (published,) = [span for span in spans if span.name == "publish jobs.media.upscale.normal"]
    assert published.attributes["messaging.message.id"] == task_id
    tritons = next(span for span in spans if span.name == "realesr-animevideov3-x2")
    assert (tritons.service, tritons.kind) == ("triton", "SERVER")
    assert chain(spans, tritons)[:-2] == [*upscale, infer]
    inferred = next(span for span in spans if span.name == infer)
    assert inferred.attributes["nereid.model"] == "realesr-animevideov3-x2"

    assert {headers["x-token"] for headers in collector.headers} == {"of the collector"}
    assert {span.service for span in collector.spans} == {"nereid-serve", "nereid-work", "triton"}
    names = {span.name for span in collector.spans}
    assert "GET /health/live" not in names
    assert len({span.trace_id for span in collector.spans if span.kind == "SERVER"}) > 2
    told = repr(collector.spans)
    assert KEY not in told
    assert "me" not in {value for span in collector.spans for value in span.attributes.values()}


async def test_gateway_and_worker_tell_the_metrics_of_the_catalogue_and_no_others(
    servers: Servers, database_url: str, tmp_path: Path, photo: bytes
) -> None:
    async with whole(servers, database_url, tmp_path) as it:
        task_id = await it.api.process(await it.api.upload(photo))
        await recorded(it, task_id)
        answer = await it.api.http.get("/metrics")
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        texts = {"serve": answer.text, "work": await it.worker.metrics.exposition()}
    for role, text in texts.items():
        expected = {metric.name: metric for metric in catalogue.ALL if role in metric.roles}
        found = {family.name: family for family in text_string_to_metric_families(text)}
        ours = {name: family for name, family in found.items() if name.startswith("nereid_")}
        assert set(ours) == {name.removesuffix("_total") for name in expected}
        for name, metric in expected.items():
            family = ours[name.removesuffix("_total")]
            assert (family.type, family.documentation) == (metric.kind, metric.help)
            for sample in family.samples:
                assert set(sample.labels) - {"le"} == set(metric.labels), name
            if metric.kind == "histogram" and family.samples:
                bounds = {s.labels["le"] for s in family.samples if "le" in s.labels}
                assert {float(bound) for bound in bounds} == {*metric.buckets, float("inf")}
        assert set(found) - set(ours) == {*PROCESS, "python_info"}
        assert task_id not in text
        assert not re.search(r"[0-9a-f]{8}-[0-9a-f]{4}", text)
        assert "_created" not in text
    assert (
        'nereid_http_requests_total{function="media.process",method="POST",status="2xx"} 1.0'
        in (texts["serve"])
    )
    assert 'nereid_messages_total{function="media.upscale",outcome="done"} 1.0' in texts["work"]


PROCESS = {
    "process_cpu_seconds",
    "process_max_fds",
    "process_open_fds",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
    "process_virtual_memory_bytes",
}
