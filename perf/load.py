"""`just load`: photos of three sizes through the whole system, as many clients send them.

Uploads, starts tasks with priorities 1 to 10, asks for their status until they are final, comes
back later when told so; then looks whether every accepted task is completed and its result right.
Prints one JSON line with all conditions, and figures; with --keep, adds the line to
perf/results/load.jsonl. Ends with status 1 where something is not as promised.
"""

from __future__ import annotations

import sys
from pathlib import Path

# run by path, with nothing of the checkout on the path but this folder
sys.path.insert(0, str(Path(__file__).parent))

# first, for locust changes what the others import
from loading.client import PhotoClient, Work

# isort: split

import argparse
import os
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import gevent
import pyvips
import requests
from benches.photos import make_photo
from loading.plan import PIXELS, SIZES, Order, Size, plan, size_for
from loading.summary import Outcome, Record, faults, shown, summary
from loading.target import Target, own_system
from locust.env import Environment
from measure import keeping, say
from served.machine import machine

SAMPLED = 3
"""Results of each kind of photo that are downloaded and looked at."""
WARM_UP = "640x360"
MOMENTS = ("created", "started")


def main() -> None:
    """Run one load test."""
    options = arguments()
    with keeping("load", keep=options.keep):
        sys.exit(1 if measure(options) else 0)


def measure(options: argparse.Namespace) -> list[str]:
    """Send everything, say what came of it; sentences of what is not as promised."""
    gpus = machine().gpus
    name = options.size
    if name == "auto":
        name = size_for(os.cpu_count() or 1, len(gpus))
    size = SIZES[name]
    orders = plan(size, scale=options.scale, seed=options.seed)
    with (
        tempfile.TemporaryDirectory(prefix="nereid-load-") as folder,
        target(options, Path(folder)) as where,
    ):
        files = {
            kind: make_photo(Path(folder), *pixels).read_bytes() for kind, pixels in PIXELS.items()
        }
        warm_up(where, make_photo(Path(folder), 640, 360).read_bytes(), options.scale)
        work = Work(files=files, orders=deque(orders), poll_s=size.poll_s, key=where.key)
        wall_s = run(work, size, where.url)
        work.record.outcomes += [Outcome(order=order) for order in work.orders]
        check_results(work.record, where)
    found = faults(work.record)
    facts = sent(size, options) | summary(work.record, wall_s) | {"faults": found}
    own = {"size": name, "own_system": options.url is None}
    # the command line without the key
    say("load", **own, **facts, command=" ".join(["just load", *without_key(sys.argv[1:])]))
    print("\n" + shown(facts))
    return found


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=["auto", *SIZES], default="auto", help="how much is sent")
    parser.add_argument("--scale", type=int, choices=range(1, 5), default=2)
    parser.add_argument("--seed", type=int, default=1, help="draws the order of the photos")
    parser.add_argument("--url", help="a system that runs; without, one is started for the test")
    parser.add_argument("--keep", action="store_true", help="add to perf/results/load.jsonl")
    parser.add_argument("--key", help="the API key of a client of that system")
    options = parser.parse_args()
    if (options.url is None) != (options.key is None):
        parser.error("--url and --key go together: the system, and a client's API key on it")
    return options


@contextmanager
def target(options: argparse.Namespace, folder: Path) -> Iterator[Target]:
    """The system to send to."""
    if options.url is not None:
        yield Target(options.url.rstrip("/"), options.key)
        return
    with own_system(folder) as found:
        yield found


def run(work: Work, size: Size, url: str) -> float:
    """Let the clients work until nothing is left, or the limit; seconds that it took."""

    class Client(PhotoClient):
        """A client of this test."""

        host = url

    Client.work = work
    runner = Environment(user_classes=[Client]).create_local_runner()
    clients = min(size.clients, len(work.orders))
    began = time.perf_counter()
    runner.start(clients, spawn_rate=clients)
    while runner.user_count or work.orders:
        if time.perf_counter() - began > size.limit_s:
            break
        gevent.sleep(0.1)
    wall_s = time.perf_counter() - began
    runner.quit()
    return wall_s


def warm_up(where: Target, photo: bytes, scale: int) -> None:
    """One small photo, which counts for nothing."""
    work = Work(files={"1080p": photo}, orders=deque(), poll_s=0.1, key=where.key)
    work.orders.append(Order(number=-1, kind="1080p", scale=scale, priority=5))
    run(work, SIZES["small"], where.url)
    (outcome,) = work.record.outcomes
    if outcome.status != "completed":
        raise RuntimeError(f"the photo to warm up is {outcome.status}: {work.record.samples[-1]}")


def check_results(record: Record, where: Target) -> None:
    """Ask for every accepted task once more, and download some results of each kind."""
    sampled = dict.fromkeys(PIXELS, 0)
    with requests.Session() as http:
        http.headers["X-API-Key"] = where.key
        for outcome in record.outcomes:
            if outcome.task_id is None:
                continue
            path = f"{where.url}/api/v1/media/processingTasks/{outcome.task_id}"
            task = http.get(path, timeout=60).json()
            outcome.status = task["status"]
            if outcome.status != "completed":
                continue
            outcome.found = (task["result"]["width"], task["result"]["height"])
            outcome.model = task["result"]["model"]
            created, started = (datetime.fromisoformat(task[f"{n}_at"]) for n in MOMENTS)
            outcome.waited_s = (started - created).total_seconds()
            sampled[outcome.order.kind] += 1
            if sampled[outcome.order.kind] <= SAMPLED:
                file = requests.get(task["result"]["url"], timeout=600).content
                image = pyvips.Image.new_from_buffer(file, "")
                outcome.seen = (image.width, image.height)


def sent(size: Size, options: argparse.Namespace) -> dict[str, Any]:
    """What was sent, as conditions of the row."""
    return {
        "photos": dict(size.photos),
        "pixels": {kind: f"{width}x{height} JPEG" for kind, (width, height) in PIXELS.items()},
        "scale": options.scale,
        "workflow": "nas-photo-processing",
        "priorities": "1 to 10, each as often as any other",
        "clients": size.clients,
        "poll_s": size.poll_s,
        "seed": options.seed,
        "warm_up": f"one photo of {WARM_UP}",
    }


def without_key(words: list[str]) -> list[str]:
    """The command line without the key."""
    hidden = {n + 1 for n, word in enumerate(words) if word == "--key"}
    return [
        "..." if n in hidden else "--key=..." if word.startswith("--key=") else word
        for n, word in enumerate(words)
    ]


if __name__ == "__main__":
    main()
