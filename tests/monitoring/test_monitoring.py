"""Dashboards, alert rules and docs name only what exists, and name it rightly."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from functions._kit.policy import HttpPolicy
from functions.tasks.contracts import Status
from gateway.metrics import catalogue
from gateway.registry import discover
from gateway.settings import CHECKOUT, Settings
from gateway.worker.metrics import ENDS
from tests.monitoring.promql import TARGET, Checker, PromqlError, Result, Series

FOLDER = CHECKOUT / "docs" / "monitoring"
PAGE = (CHECKOUT / "docs" / "monitoring.md").read_text()
DASHBOARDS = sorted(FOLDER.glob("dashboard-*.json"))
TRITON = json.loads((Path(__file__).parent / "triton_metrics.json").read_text())
PROMETHEUS = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
RULES = yaml.safe_load((FOLDER / "alerts.yml").read_text())
ALERTS: list[dict[str, Any]] = [rule for group in RULES["groups"] for rule in group["rules"]]
PROCESS = {
    "process_cpu_seconds_total": "counter",
    "process_max_fds": "gauge",
    "process_open_fds": "gauge",
    "process_resident_memory_bytes": "gauge",
    "process_start_time_seconds": "gauge",
    "process_virtual_memory_bytes": "gauge",
}
UNITS = {
    "s": {"s"},
    "bytes": {"bytes"},
    "µs": {"µs"},
    "/s": {"reqps", "ops"},
    "s/s": {"short", "percentunit"},
    "": {"short", "percentunit", "watt"},
}
"""Grafana's units for what an expression is in."""


def every_series() -> dict[str, Series]:
    """What Prometheus has of a whole system, by name."""
    found = {"up": Series("gauge", frozenset())}
    found |= {name: Series(kind, frozenset()) for name, kind in PROCESS.items()}
    for metric in catalogue.ALL:
        labels = frozenset(metric.labels)
        if metric.kind == "histogram":
            found[f"{metric.name}_bucket"] = Series("counter", labels | {"le"}, metric.buckets)
            found[f"{metric.name}_sum"] = Series("counter", labels)
            found[f"{metric.name}_count"] = Series("counter", labels)
        else:
            found[metric.name] = Series(metric.kind, labels)
    for part in ("scraped", "read"):
        for name, told in TRITON[part].items():
            found[name] = Series(told["type"], frozenset(told["labels"]))
    return found


FUNCTIONS = discover()
VALUES = {
    "job": {job["job_name"] for job in PROMETHEUS["scrape_configs"]},
    "function": {function.name for function in FUNCTIONS},
    "band": {"high", "normal", "low", "none"},
    "role": {"serve", "work"},
    "status": {*map(str, Status), "1xx", "2xx", "3xx", "4xx", "5xx", "none"},
    "outcome": {*ENDS, "completed", "unavailable", "too_slow", "cancelled"},
    "reason": {"BACKEND", "CANCELED", "OTHER", "REJECTED"},
}


@pytest.fixture
def checker() -> Checker:
    return Checker(every_series(), VALUES)


def panels(path: Path) -> list[dict[str, Any]]:
    board = json.loads(path.read_text())
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def mentioned(text: str) -> set[str]:
    """Labels of a Grafana legend or of a Prometheus annotation."""
    return set(re.findall(r"\{\{\s*(?:\$labels\.)?(\w+)\s*\}\}", text))


def labels_of(result: Result) -> frozenset[str]:
    assert result.labels is not None
    return result.labels


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_every_panel_of_a_dashboard_asks_for_what_exists(path: Path, checker: Checker) -> None:
    for panel in panels(path):
        for target in panel["targets"]:
            result = checker.check(target["expr"])
            where = f"{path.stem}, {panel['title']}: {target['expr']}"
            if "{{" in target["legendFormat"]:
                assert mentioned(target["legendFormat"]) <= labels_of(result), where
            unit = panel["fieldConfig"]["defaults"]["unit"]
            assert unit in UNITS[result.unit], f"{where} is in {result.unit or 'no unit'}"


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_can_be_imported_as_it_is(path: Path) -> None:
    board = json.loads(path.read_text())
    assert board["uid"] == path.stem.replace("dashboard", "nereid")
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    places: set[tuple[int, int]] = set()
    for panel in panels(path):
        grid = panel["gridPos"]
        assert grid["x"] + grid["w"] <= 24
        cells = {(grid["x"] + x, grid["y"] + y) for x in range(grid["w"]) for y in range(grid["h"])}
        assert not cells & places, panel["title"]
        places |= cells
        assert panel["datasource"]["uid"] == "${datasource}"
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: str(rule["alert"]))
def test_an_alert_asks_for_what_exists_and_says_what_to_do(
    rule: dict[str, Any], checker: Checker
) -> None:
    result = checker.check(rule["expr"])
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert set(rule["annotations"]) == {"summary", "action"}
    for text in rule["annotations"].values():
        assert mentioned(text) - {"value"} <= labels_of(result), text
    assert len(rule["annotations"]["action"]) > 40
    if "for" in rule:
        assert re.fullmatch(r"\d+[mh]", rule["for"])
    else:
        assert re.search(r"\[\d+m\]", rule["expr"]), "it needs a time of its own"
    for name in re.findall(r"NEREID_([A-Z_]+)", rule["annotations"]["action"]):
        assert name.lower() in Settings.__struct_fields__
    for path in re.findall(r"(/api/v1/\w+(?:/\w+)?|/health/\w+)", rule["annotations"]["action"]):
        assert any(
            path == known
            for function in FUNCTIONS
            for route in function.routes
            for known in route.paths
        ), path
    assert f"`{rule['alert']}`" in PAGE


def test_alerts_have_names_of_their_own() -> None:
    names = [rule["alert"] for rule in ALERTS]
    assert len(set(names)) == len(names)


def test_every_metric_of_ours_is_looked_at(checker: Checker) -> None:
    for path in DASHBOARDS:
        for panel in panels(path):
            for target in panel["targets"]:
                checker.check(target["expr"])
    for rule in ALERTS:
        checker.check(rule["expr"])
    used = {re.sub(r"_(bucket|sum|count)$", "", name) for name in checker.used}
    assert {metric.name for metric in catalogue.ALL} - used == set()


def test_the_page_lists_every_metric_truly_and_no_other() -> None:
    rows = dict(re.findall(r"^\| `(nereid_\w+)` \| (.*) \|$", PAGE, re.MULTILINE))
    for metric in catalogue.ALL:
        kind, labels, where, told = [cell.strip() for cell in rows[metric.name].split("|")]
        assert kind == metric.kind
        assert re.findall(r"`(\w+)`", labels) == list(metric.labels)
        roles = {"gateway": ("serve",), "worker": ("work",), "both": ("serve", "work")}
        assert roles[where] == metric.roles
        assert told == metric.help
    assert set(rows) == {metric.name for metric in catalogue.ALL}


def test_buckets_reach_as_far_as_handlers_and_answers_may_take() -> None:
    for metric in catalogue.ALL:
        assert list(metric.buckets) == sorted(set(metric.buckets))
        assert (metric.kind == "histogram") == bool(metric.buckets)
        assert metric.kind != "counter" or metric.name.endswith("_total")
        assert re.fullmatch(r"nereid_[a-z_]+", metric.name)
    longest = max(c.policy.timeout_s for f in FUNCTIONS for c in f.consumers)
    assert catalogue.WORK_S[-1] >= longest
    answers = [
        policy.timeout_s
        for function in FUNCTIONS
        for route in function.routes
        if isinstance(policy := route.opt["policy"], HttpPolicy) and policy.timeout_s is not None
    ]
    assert catalogue.ANSWER_S[-1] >= max(answers)
    attempts = max(c.policy.attempts for f in FUNCTIONS for c in f.consumers)
    assert catalogue.ATTEMPTS[-1] >= attempts


def test_prometheus_asks_each_kind_of_process_where_it_answers() -> None:
    jobs = {job["job_name"]: job for job in PROMETHEUS["scrape_configs"]}
    assert set(jobs) == {"nereid-gateway", "nereid-worker", "triton"}
    assert "credentials_file" in jobs["nereid-gateway"]["authorization"]
    assert PROMETHEUS["rule_files"] == ["alerts.yml"]
    for job in jobs.values():
        assert job.get("metrics_path", "/metrics") == "/metrics"


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ("nereid_nothing", "there is no metric"),
        ("nereid_http_requests_total{camera='x'}", "cannot read"),
        ('nereid_http_requests_total{camera="x"}', "has no label camera"),
        ('nereid_http_requests_total{function="media.uplaod"}', "no function is ever"),
        ('up{job="nereid-wrker"} == 0', "no job is ever"),
        ("sum by (band) (rate(nereid_messages_total[5m]))", "by"),
        ("rate(nereid_http_requests_active[5m])", "no range of a counter"),
        ("rate(nereid_messages_total)", "no range of a counter"),
        (
            "histogram_quantile(0.9, sum by (band) (rate(nereid_queue_wait_seconds_bucket[5m])))",
            "by le",
        ),
        (
            "histogram_quantile(0.9, sum by (le) (rate(nereid_queue_wait_seconds_bucket[5m]))) > 7",
            "a guess",
        ),
        ("nereid_dead_letters_messages / nereid_jetstream_up", "never match"),
        ("nereid_jetstream_up and on (backend) nereid_jetstream_up", "on"),
        ("sum(nereid_jetstream_up) )", "left over"),
        ("nereid_jetstream_up[5m]  > 1", "range"),
    ],
)
def test_the_checker_finds_mistakes(checker: Checker, wrong: str, why: str) -> None:
    with pytest.raises(PromqlError, match=why):
        checker.check(wrong)


def test_the_checker_knows_labels_and_units(checker: Checker) -> None:
    buckets = "sum by (band, le) (rate(nereid_queue_wait_seconds_bucket[5m]))"
    found = checker.check(f"histogram_quantile(0.95, {buckets})")
    assert (found.labels, found.unit) == (frozenset({"band"}), "s")
    memory = checker.check("nereid_resident_memory_bytes / 2")
    assert (memory.labels, memory.unit) == (TARGET, "")
    mean = checker.check("rate(nv_inference_queue_duration_us[5m]) / rate(nv_inference_count[5m])")
    assert mean.unit == "µs"
    assert checker.check("1").labels is None
