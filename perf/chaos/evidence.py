"""Looks what is there at the end: over HTTP as a client, and in the streams and the bucket."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pyvips
from chaos.client import Api
from chaos.ledger import Finding, Found, FrameEntry, Ledger, Row, TaskEntry
from chaos.load import same_moment
from chaos.verdict import FINAL
from nats.aio.client import Client

AT_ONCE = 8
PAGE = 200
WORK = ("JOBS", "FRAMES", "SPARE")
"""Streams that are empty when all work is done."""
TASKS = "/api/v1/media/processingTasks"


class Told(msgspec.Struct, kw_only=True):
    """An event of a task, as EVENTS keeps it."""

    task_id: str
    status: str
    attempts: int
    at: float


async def gather(api: Api, ledger: Ledger, bucket: Path, told: list[Told], queue: Client) -> Found:
    """Everything that there is to compare."""
    finals = Counter(event.task_id for event in told if event.status in FINAL)
    rows = {task_id: Row(status="unknown") for task_id in await task_ids(api)}
    slots = asyncio.Semaphore(AT_ONCE)

    async def one_row(task: TaskEntry) -> None:
        async with slots:
            row = await _row(api, task)
        if row is not None:
            rows[task.task_id] = row

    await asyncio.gather(*map(one_row, ledger.tasks.values()))
    by_moment = ledger.frames

    async def one_alert(alert: dict[str, Any]) -> Finding:
        captured_at = same_moment(alert["captured_at"])
        async with slots:
            image = await _image(api.session, alert["image_url"], by_moment.get(captured_at))
        return Finding(
            alert_id=alert["alert_id"], captured_at=captured_at, label=alert["label"], image=image
        )

    alerts = await asyncio.gather(*map(one_alert, await all_alerts(api)))
    return Found(
        rows=rows,
        finals=dict(finals),
        results=results_in(bucket, ledger),
        alerts=list(alerts),
        facts=dict(await _facts(queue)),
        letters=[_letter(data) for _, data in await messages(queue, "DEAD", "dead.>")],
        waiting=await waiting(queue),
    )


async def task_ids(api: Api) -> list[str]:
    """Of all tasks, over all pages."""
    return [row["task_id"] for row in await _pages(api, TASKS)]


async def all_alerts(api: Api) -> list[dict[str, Any]]:
    """Over all pages."""
    return await _pages(api, "/api/v1/alerts")


async def _pages(api: Api, path: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    query = {"limit": str(PAGE)}
    while True:
        page = json.loads((await api.ask("GET", path, {200}, params=query)).body)
        found += page["items"]
        if page["next_cursor"] is None:
            return found
        query["cursor"] = page["next_cursor"]


async def _row(api: Api, task: TaskEntry) -> Row | None:
    answer = await api.ask("GET", f"{TASKS}/{task.task_id}", {200, 404})
    if answer.status == 404:
        return None
    view = json.loads(answer.body)
    if view["status"] != "completed":
        return Row(status=view["status"], error=json.dumps(view["error"]))
    return Row(status="completed", result=await _result(api.session, task, view["result"]))


async def _result(http: aiohttp.ClientSession, task: TaskEntry, result: dict[str, Any]) -> str:
    """What is wrong with it, or "ok"."""
    if task.words:
        heard = "".join(c for c in result["transcription"].lower() if c.isalpha() or c == " ")
        return "ok" if heard.strip().startswith(task.words) else f"it heard {heard[:80]!r}"
    file = await download(http, result["url"])
    if file is None:
        return "its file is gone"
    if hashlib.sha256(file).hexdigest() != result["sha256"]:
        return "its file is not the one that was told"
    image = pyvips.Image.new_from_buffer(file, "")
    size = (image.width, image.height)
    if size != task.size or size != (result["width"], result["height"]):
        return f"its size is {size}, not {task.size}"
    return "ok" if result["thumbnails"] else "it has no thumbnail"


async def _image(http: aiohttp.ClientSession, url: str | None, frame: FrameEntry | None) -> str:
    """What is wrong with an alert's picture, or "ok"."""
    if url is None:
        return "its picture was never kept"
    file = await download(http, url)
    if file is None:
        return "its picture is gone"
    if frame is not None and f"{frame.number:08}".encode() not in file[:64]:
        return "its picture is another frame's"
    return "ok"


async def download(http: aiohttp.ClientSession, url: str) -> bytes | None:
    """What a presigned URL gives without credentials, or None."""
    async with aiohttp.ClientSession(timeout=http.timeout, trust_env=False) as nobody:
        for _ in range(3):
            try:
                async with nobody.get(url) as answer:
                    if answer.status == 200:
                        return await answer.read()
            except (aiohttp.ClientError, TimeoutError):
                await asyncio.sleep(1.0)
    return None


def results_in(bucket: Path, ledger: Ledger) -> dict[str, int]:
    """How many pictures each photo became, thumbnails apart."""
    return {
        task.task_id: sum(
            "thumbnail" not in file.name for file in (bucket / "results" / task.task_id).glob("*")
        )
        for task in ledger.tasks.values()
        if task.kind == "photo"
    }


async def messages(queue: Client, stream: str, subject: str) -> list[tuple[str, bytes]]:
    """All that `stream` holds on `subject`, oldest first."""
    js = queue.jetstream(timeout=10.0)
    info = await js.stream_info(stream, subjects_filter=subject)
    count = sum((info.state.subjects or {}).values())
    if not count:
        return []
    subscription = await js.subscribe(subject, stream=stream, ordered_consumer=True)
    found = []
    for _ in range(count):
        message = await subscription.next_msg(timeout=30)
        found.append((message.subject, message.data))
    await subscription.unsubscribe()
    return found


async def events(queue: Client) -> list[Told]:
    """All events of all tasks."""
    found = []
    for _, data in await messages(queue, "EVENTS", "events.task.*"):
        event = json.loads(data)
        found.append(
            Told(
                task_id=event["task"]["task_id"],
                status=event["status"],
                attempts=event.get("attempts", 0),
                at=datetime.fromisoformat(event["at"]).timestamp(),
            )
        )
    return found


async def last_event(queue: Client) -> int:
    """Sequence of the newest event."""
    return (await queue.jetstream(timeout=10.0).stream_info("EVENTS")).state.last_seq


async def _facts(queue: Client) -> Counter[str]:
    """How often each alert was told; the fact of its picture is another."""
    facts: Counter[str] = Counter()
    for subject, data in await messages(queue, "EVENTS", "events.alert.>"):
        if not subject.endswith(".image"):
            facts[json.loads(data)["alert_id"]] += 1
    return facts


async def waiting(queue: Client) -> dict[str, int]:
    """Messages that the work queues hold, those in hand included."""
    js = queue.jetstream(timeout=10.0)
    return {name: (await js.stream_info(name)).state.messages for name in WORK}


def _letter(data: bytes) -> str:
    letter = json.loads(data)
    return f"{letter['function']} {letter['code']}: {letter['message']}"


def encoded(facts: Ledger | Found) -> bytes:
    """Facts as JSON, for whoever looks for a cause."""
    return msgspec.json.format(msgspec.json.encode(facts), indent=1)
