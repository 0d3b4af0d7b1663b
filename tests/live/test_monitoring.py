"""What Prometheus finds at a running system: gateway, worker, Triton."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tritonclient.grpc import InferenceServerClient

from gateway.metrics import catalogue
from tests.conftest import Servers
from tests.live.conftest import Nereid, client_of

TRITON = json.loads((Path(__file__).parents[1] / "monitoring/triton_metrics.json").read_text())


def names(text: str) -> set[str]:
    """The families of a scrape that are ours, counters by their full names."""
    found = text_string_to_metric_families(text)
    return {
        f"{family.name}_total" if family.type == "counter" else family.name
        for family in found
        if family.name.startswith("nereid_")
    }


async def test_running_json_tells_three_addresses_and_each_answers(system: Nereid) -> None:
    told = system.running
    async with client_of(system, "auditor") as http:
        gateway = await http.get(told["gateway_metrics_url"])
        document = (await http.get("/schema/openapi.json")).json()
    described = document["paths"]["/metrics"]["get"]["responses"]
    assert gateway.status_code == 200
    assert list(described["200"]["content"]) == ["text/plain"]
    assert gateway.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert names(gateway.text) == {m.name for m in catalogue.ALL if "serve" in m.roles}
    assert "\nnereid_jetstream_up 1.0\n" in gateway.text
    assert 'nereid_queue_waiting_messages{band="high",function="media.upscale"}' in gateway.text
    async with httpx.AsyncClient(trust_env=False) as nobody:
        worker = await nobody.get(told["worker_metrics_url"])
        triton = await nobody.get(told["triton_metrics_url"])
        refused = await nobody.get(told["gateway_metrics_url"])
    assert names(worker.text) == {m.name for m in catalogue.ALL if "work" in m.roles}
    assert "nv_inference_count" in triton.text
    assert refused.status_code == 401
    ports = json.loads((system.data / "ports.json").read_text())
    assert told["worker_metrics_url"] == f"http://127.0.0.1:{ports['worker_metrics']}/metrics"


@pytest.mark.parametrize("model", ["silero-vad"])
async def test_triton_tells_what_the_dashboards_were_checked_against(
    servers: Servers, model: str
) -> None:
    with InferenceServerClient(servers.triton.url) as client:
        client.load_model(model)
        assert client.get_server_metadata().version == TRITON["version"]
    async with httpx.AsyncClient(trust_env=False) as http:
        text = (await http.get(servers.triton.metrics_url)).text
    found = {family.name: family for family in text_string_to_metric_families(text)}
    for name, told in TRITON["scraped"].items():
        assert found[name].type == told["type"]
        for sample in found[name].samples:
            assert sorted(sample.labels) == told["labels"]
    assert set(found) == set(TRITON["scraped"]), "put what is new into the list"
