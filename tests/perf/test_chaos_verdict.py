"""A reckoning that cannot fail proves nothing: each broken promise must be told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from chaos.ledger import Finding, Found, FrameEntry, Ledger, Processes, Row, Size, TaskEntry
from chaos.verdict import VIOLATIONS, counts, judge

MOMENT, QUIET = "2026-01-01T00:00:00.001+00:00", "2026-01-01T00:00:00.002+00:00"
GREW = Size(memory_mb=1000.0, handles=40, tasks=30)


def ledger() -> Ledger:
    """Two tasks and two frames, one of which was refused and is not there."""
    return Ledger(
        tasks={
            "photo": TaskEntry(
                task_id="photo",
                kind="photo",
                accepted_at=1.0,
                callback=True,
                polled=["queued", "processing", "completed"],
                streamed=["queued", "processing", "completed"],
            ),
            "speech": TaskEntry(task_id="speech", kind="speech", accepted_at=2.0),
        },
        frames={
            MOMENT: FrameEntry(captured_at=MOMENT, number=1, labels=("cup", "cup"), accepted=True),
            QUIET: FrameEntry(captured_at=QUIET, number=2, labels=("cat",)),
        },
        heard={"photo": 2},
        old_alerts=["a"],
        streamed_alerts={"b": 1},
    )


def found() -> Found:
    """All of it as it should be."""
    return Found(
        rows={"photo": Row(status="completed"), "speech": Row(status="completed")},
        finals={"photo": 1, "speech": 1},
        results={"photo": 1},
        alerts=[
            Finding(alert_id=alert_id, captured_at=MOMENT, label="cup") for alert_id in ("a", "b")
        ],
        facts={"a": 1, "b": 1},
        waiting={"JOBS": 0},
    )


def processes() -> Processes:
    size = Size(memory_mb=100.0, handles=40, tasks=30)
    return Processes(before={"gateway-1": size}, after={"gateway-1": size})


def violations(
    change: Callable[[Ledger, Found, Processes], Any] = lambda *_: None,
) -> dict[str, int]:
    """The counts above 0, after a change to what is all right."""
    known, there, alive = ledger(), found(), processes()
    change(known, there, alive)
    seen = counts(judge(known, there, alive))
    assert tuple(seen) == VIOLATIONS
    return {name: count for name, count in seen.items() if count}


def test_what_is_all_right_breaks_no_promise() -> None:
    assert violations() == {}


def another_alert(alert_id: str, captured_at: str, label: str) -> Callable[..., None]:
    def change(known: Ledger, there: Found, _: Processes) -> None:
        known.old_alerts.append(alert_id)
        there.alerts.append(Finding(alert_id=alert_id, captured_at=captured_at, label=label))

    return change


def half_refused(known: Ledger, there: Found, _: Processes) -> None:
    known.frames[MOMENT].accepted = False
    there.alerts.pop()


BROKEN: dict[str, tuple[dict[str, int], Callable[[Ledger, Found, Processes], Any]]] = {
    "a task that is not there": ({"lost": 1}, lambda _, f, __: f.rows.pop("speech")),
    "a task that never ends": (
        {"stuck": 1},
        lambda _, f, __: setattr(f.rows["speech"], "status", "processing"),
    ),
    "a good task that failed": (
        {"failed": 1},
        lambda _, f, __: setattr(f.rows["speech"], "status", "failed"),
    ),
    "a result that is not what was asked for": (
        {"wrong": 1},
        lambda _, f, __: setattr(f.rows["speech"], "result", "it heard nothing"),
    ),
    "two results": ({"doubled": 1}, lambda _, f, __: f.results.update(photo=2)),
    "two final events": ({"doubled": 1}, lambda _, f, __: f.finals.update(photo=2)),
    "two tasks for one request": (
        {"doubled": 1},
        lambda _, f, __: f.rows.update(nobodys=Row(status="completed")),
    ),
    "a second final event for a follower": (
        {"doubled": 1},
        lambda k, _, __: setattr(k.tasks["photo"], "streamed", ["completed"] * 2),
    ),
    "a follower that never heard the end": (
        {"lost": 1},
        lambda k, _, __: setattr(k.tasks["photo"], "streamed", ["queued"]),
    ),
    "a status that went back": (
        {"backwards": 1},
        lambda k, _, __: setattr(k.tasks["photo"], "polled", ["processing", "queued"]),
    ),
    "an event that went back": (
        {"backwards": 1},
        lambda k, _, __: setattr(
            k.tasks["photo"], "streamed", ["processing", "queued", "completed"]
        ),
    ),
    "a final state that became another": (
        {"backwards": 1},
        lambda k, _, __: setattr(k.tasks["photo"], "polled", ["failed"]),
    ),
    "a frame without its alerts": (
        {"lost": 1},
        lambda _, f, __: setattr(f, "alerts", []),
    ),
    "a frame with half of its alerts": ({"lost": 1}, lambda _, f, __: f.alerts.pop()),
    "a refused frame with half of its alerts": (
        {"lost": 1},
        half_refused,
    ),
    "two alerts for one finding": ({"doubled": 1}, another_alert("a2", MOMENT, "cup")),
    "an alert that is there twice": (
        {"doubled": 1},
        lambda _, f, __: f.alerts.__setitem__(1, f.alerts[0]),
    ),
    "an alert that was told twice": ({"doubled": 1}, lambda _, f, __: f.facts.update(a=2)),
    "an alert that came twice to its follower": (
        {"doubled": 1},
        lambda k, _, __: k.streamed_alerts.update(b=2),
    ),
    "an alert that never came to its follower": (
        {"lost": 1},
        lambda k, _, __: k.streamed_alerts.clear(),
    ),
    "an alert of no frame": ({"doubled": 1}, another_alert("a2", "2020-01-01", "cup")),
    "an alert whose picture is gone": (
        {"gone": 1},
        lambda _, f, __: setattr(f.alerts[0], "image", "its picture is gone"),
    ),
    "a webhook that was never delivered": ({"untold": 1}, lambda k, _, __: k.heard.clear()),
    "a webhook signed wrongly": ({"wrong": 1}, lambda k, _, __: setattr(k, "forged", 1)),
    "a dead letter": ({"dead": 1}, lambda _, f, __: f.letters.append("alerts.keep frame_gone")),
    "a message that nobody took": ({"stuck": 1}, lambda _, f, __: f.waiting.update(JOBS=1)),
    "an answer 500": ({"broken": 1}, lambda k, _, __: k.broken_answers.append("500")),
    "memory that leaked": (
        {"leaked": 1},
        lambda _, __, p: setattr(p, "after", {"gateway-1": GREW}),
    ),
    "handles that leaked": (
        {"leaked": 1},
        lambda _, __, p: setattr(
            p, "after", {"gateway-1": Size(memory_mb=100.0, handles=400, tasks=30)}
        ),
    ),
    "asyncio tasks that leaked": (
        {"leaked": 1},
        lambda _, __, p: setattr(
            p, "after", {"gateway-1": Size(memory_mb=100.0, handles=40, tasks=300)}
        ),
    ),
    "asyncio tasks that are not told at the end": (
        {"leaked": 1},
        lambda _, __, p: p.after.update({"gateway-1": Size(memory_mb=100.0, handles=40)}),
    ),
    "a part that was never measured": ({"leaked": 1}, lambda _, __, p: p.before.clear()),
    "a part that does not tell": ({"leaked": 1}, lambda _, __, p: p.after.clear()),
    "a process left behind": ({"leaked": 1}, lambda _, __, p: p.left.append("a child (7)")),
    "a process that had to be killed": ({"killed": 1}, lambda _, __, p: p.killed.append("worker")),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_promise_is_told(name: str) -> None:
    wanted, change = BROKEN[name]
    assert violations(change) == wanted


def test_every_kind_of_violation_is_among_them() -> None:
    assert {kind for wanted, _ in BROKEN.values() for kind in wanted} == set(VIOLATIONS)


def test_a_request_that_was_given_up_may_have_become_a_task() -> None:
    def change(known: Ledger, there: Found, _: Processes) -> None:
        known.unsure_tasks = 1
        there.rows["nobodys"] = Row(status="completed")

    assert violations(change) == {}


def test_a_frame_without_an_answer_may_be_there_as_a_whole() -> None:
    assert violations(another_alert("a2", QUIET, "cat")) == {}
