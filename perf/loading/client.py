"""A client of the load test, as locust runs it: uploads a photo, starts a task, asks until done."""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import gevent
from loading.plan import Order
from loading.summary import OK, Outcome, Record, Sample
from locust import HttpUser, task
from locust.exception import StopUser
from requests import Response

FINAL = {"completed", "failed", "cancelled"}
GOOD = range(200, 300)
COME_BACK = {429, 503}
"""With Retry-After: not an error but backpressure."""
TRIES = 4
"""How often a request that fails is made in all, before its photo is given up."""
TIMEOUT_S = 300.0
"""Without a byte from the system."""
PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0


@dataclass
class Work:
    """What all clients share: the photos' files, what is to be sent, and what happened."""

    files: Mapping[str, bytes]
    orders: deque[Order]
    poll_s: float
    key: str
    record: Record = field(default_factory=Record)


class GivenUpError(Exception):
    """A request failed too often."""


class PhotoClient(HttpUser):
    """Takes one photo of the work after the other."""

    abstract = True
    work: Work

    @task
    def send_a_photo(self) -> None:
        """One photo's whole way; the client ends when there is none left."""
        if not self.work.orders:
            raise StopUser
        outcome = Outcome(order=self.work.orders.popleft())
        self.work.record.outcomes.append(outcome)
        try:
            self.send(outcome)
        except GivenUpError:
            outcome.status = f"given up ({outcome.status})"

    def send(self, outcome: Outcome) -> None:
        """Upload, start, follow. Raises `GivenUpError`."""
        order, began = outcome.order, time.perf_counter()
        outcome.status = "not uploaded"
        uploaded = self.ask("upload", "POST", "/api/v1/media", data=self.work.files[order.kind])
        outcome.status = "not accepted"
        accepted = self.ask(
            "process",
            "POST",
            "/api/v1/media:process",
            headers={"Idempotency-Key": str(uuid.uuid4())},
            json={
                "file_path": uploaded["file_path"],
                "workflow": "nas-photo-processing",
                "priority": order.priority,
                "parameters": {"image_enhance": {"scale_factor": order.scale}},
            },
        )
        outcome.task_id, outcome.status = accepted["task_id"], "queued"
        while outcome.status not in FINAL:
            gevent.sleep(self.work.poll_s)
            row = self.ask("status", "GET", accepted["status_url"])
            outcome.status = row["status"]
        outcome.seconds = time.perf_counter() - began
        if row["result"] is not None:
            outcome.found = (row["result"]["width"], row["result"]["height"])

    def ask(self, name: str, method: str, path: str, **request: Any) -> dict[str, Any]:
        """The answer's JSON. Comes back later when told so, however often; tries again when not."""
        headers = {"X-API-Key": self.work.key} | request.pop("headers", {})
        failures = 0
        while failures < TRIES:
            began = time.perf_counter()
            answer = self.client.request(
                method, path, name=name, headers=headers, timeout=TIMEOUT_S, **request
            )
            if answer.status_code in GOOD:
                self.note(name, began, OK)
                return dict(answer.json())
            later = answer.status_code in COME_BACK and "Retry-After" in answer.headers
            self.note(name, began, end_of(answer), refused=later)
            failures += not later
            gevent.sleep(pause_s(answer))
        raise GivenUpError(name)

    def note(self, name: str, began: float, end: str, *, refused: bool = False) -> None:
        """Remember a request."""
        seconds = time.perf_counter() - began
        self.work.record.samples.append(
            Sample(name=name, seconds=seconds, end=end, refused=refused)
        )


def end_of(answer: Response) -> str:
    """How a request ended that was not answered well: status and code, or the error's name."""
    if not answer.status_code:  # there was none: locust keeps the error instead
        return type(getattr(answer, "error", None)).__name__
    try:
        code = answer.json().get("code", "")
    except ValueError:
        code = ""
    return f"{answer.status_code} {code}".strip()


def pause_s(answer: Response) -> float:
    """How long to wait before the next try: what the answer says, within reason."""
    told = (answer.headers or {}).get("Retry-After", "")
    return min(float(told), LONGEST_PAUSE_S) if told.isdigit() else PAUSE_S
