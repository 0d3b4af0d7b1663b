"""`just chaos`: the whole system under a known load while its parts die, and then the reckoning.

Starts two gateways, two workers, two Tritons, three NATS servers with replicated streams, S3 and
PostgreSQL; sends photos, frames and recordings, and breaks what it can in an order that the seed
draws. Prints one line of counts; ends with status 1 where a promise was broken. docs/chaos.md.
"""

from __future__ import annotations

import sys
from pathlib import Path

# run by path, with nothing of the checkout on the path but the folder of this package
sys.path.insert(0, str(Path(__file__).parents[1]))

import argparse
import asyncio
import dataclasses
import json
import logging
import random
import shutil
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import uvloop
from chaos import evidence, report
from chaos.client import Api, GivenUpError, session_of
from chaos.faults import Done, Saboteur
from chaos.leaks import sizes
from chaos.ledger import Found, Ledger, Processes
from chaos.load import Load
from chaos.media import read_media
from chaos.plan import Plan, Rates, inputs_of, plan
from chaos.receiver import receiver_of
from chaos.starting import running
from chaos.system import System
from chaos.verdict import Violation, counts, judge
from chaos.watch import Watch
from measure import conditions

RESULTS = Path(__file__).parents[1] / "results" / "chaos.jsonl"
FAULTS_A_MINUTE = 9.6
WARM_UP_S = 6.0
WARM_UP = Rates(frame=8.0, photo=2.0, speech=1.0, conversion=1.0)
"""What every part has done before it is measured the first time."""
LATE_S = 150.0
"""After the last fault, requests are given up."""
QUIET_S = 300.0
"""In which everything that was accepted must come to its end, unless it is said otherwise."""
SETTLED_S = 4.0


@dataclass
class Run:
    """All that a run has found."""

    ledger: Ledger
    done: list[Done]
    found: Found
    processes: Processes
    times: report.Timings
    began: float

    @property
    def violations(self) -> list[Violation]:
        """What was broken."""
        return judge(self.ledger, self.found, self.processes)


def main() -> None:
    """One run from its seed."""
    options = arguments()
    logging.basicConfig(level=logging.ERROR)
    faults = options.faults
    if faults is None:
        faults = round(FAULTS_A_MINUTE * options.minutes)
    planned = plan(options.seed, options.minutes * 60, faults)
    print(f"seed {options.seed}: {faults} faults in {options.minutes:g} minutes", flush=True)
    folder = options.folder or Path(tempfile.mkdtemp(prefix="nereid-chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    say(f"all of it lies in {folder}")
    conditions()  # of the machine before there is any load
    run = uvloop.run(one_run(planned, folder, options.quiet))
    violations = run.violations
    seen = counts(violations)
    (folder / "ledger.json").write_bytes(evidence.encoded(run.ledger))
    (folder / "found.json").write_bytes(evidence.encoded(run.found))
    keep(options, run, seen, faults)
    short = report.too_few(run.done, faults)
    for name, sentence in violations[:40]:
        print(f"{name}: {sentence}")
    if short:
        print(short)
    print(report.line(run.ledger, run.done, seen), flush=True)
    failed = bool(violations or short)
    if options.folder or failed:
        print(f"logs: {folder}; again: just chaos {again(options, faults)}")
    else:
        shutil.rmtree(folder, ignore_errors=True)
    sys.exit(1 if failed else 0)


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=3.0, help="of load and faults [3]")
    parser.add_argument("--seed", type=int, help="draws inputs and faults; a new one unless given")
    parser.add_argument("--faults", type=int, help=f"how many [{FAULTS_A_MINUTE:g} a minute]")
    parser.add_argument("--quiet", type=float, default=QUIET_S, help="seconds to wait at the end")
    parser.add_argument("--keep", action="store_true", help="add to perf/results/chaos.jsonl")
    parser.add_argument("--json", type=Path, help="add the line of JSON to this file")
    parser.add_argument("--folder", type=Path, help="where all of it lies, and stays")
    options = parser.parse_args()
    if options.seed is None:
        options.seed = time.time_ns() % 1_000_000
    return options


async def one_run(planned: Plan, folder: Path, quiet_s: float) -> Run:
    """Start, warm up, break, wait, compare, stop."""
    media, ledger = read_media(), Ledger()
    async with AsyncExitStack() as stack:
        system = await stack.enter_async_context(running(folder))
        say("all parts run")
        receiver = await stack.enter_async_context(receiver_of(ledger, system.webhook_secret))
        http = await stack.enter_async_context(session_of(system.key))
        api = Api(system.gateways, ledger, http)
        load = Load(api, ledger, media, receiver.url, planned.seed)
        await load.set_rules()
        watch = Watch(api, ledger, planned.seed)
        watching = asyncio.create_task(watch.run())
        await warm_up(load, planned)
        await quiet(watch, ledger, api, system, quiet_s)
        processes = Processes(before=await sizes(system, http))
        say("warm and measured")
        ledger.old_alerts = [alert["alert_id"] for alert in await evidence.all_alerts(api)]
        last = await evidence.last_event(system.admin)
        following = asyncio.create_task(watch.follow_alerts(str(last)))
        saboteur = Saboteur(system, load, receiver)
        began = time.time()
        api.deadline = time.monotonic() + planned.seconds + LATE_S
        async with asyncio.TaskGroup() as group:
            group.create_task(load.send_all(planned.inputs))
            group.create_task(saboteur.do_all(planned.faults, planned.spares))
        api.deadline = float("inf")
        say("all is sent, and nothing is broken any more")
        await system.all_running(QUIET_S)
        await quiet(watch, ledger, api, system, quiet_s)
        for task in (watching, following):
            task.cancel()
        await asyncio.gather(watching, following, return_exceptions=True)
        api.deadline = time.monotonic() + QUIET_S
        told = await evidence.events(system.admin)
        bucket = folder / "servers" / "s3" / "nereid"
        found = await evidence.gather(api, ledger, bucket, told, system.admin)
        await asyncio.sleep(SETTLED_S)
        processes.after = await sizes(system, http)
        ledger.refusals = dict(api.refusals)
        processes.left = await system.stop()
        processes.killed = system.killed
        times = report.timings(ledger, saboteur.done, told)
        return Run(ledger, saboteur.done, found, processes, times, began)


async def warm_up(load: Load, planned: Plan) -> None:
    """Some of everything, on both gateways."""
    draw = random.Random(f"{planned.seed}:warm")  # noqa: S311 - no secret
    shift = len(planned.inputs)
    warm = [
        dataclasses.replace(one, number=one.number + shift)
        for one in inputs_of(draw, WARM_UP_S, WARM_UP)
    ]
    load.api.deadline = time.monotonic() + LATE_S
    await load.send_all(warm)
    load.api.deadline = float("inf")


async def quiet(watch: Watch, ledger: Ledger, api: Api, system: System, within_s: float) -> bool:
    """Return when nothing is left to be done, or it is late; whether it is quiet."""
    deadline = time.monotonic() + within_s
    api.deadline = deadline
    left: dict[str, int] = {}
    try:
        while time.monotonic() < deadline:
            left = await unfinished(watch, ledger, api, system)
            if not left:
                return True
            await asyncio.sleep(1.0)
        say(f"not quiet after {within_s:g} s: {left}")
    except GivenUpError as error:
        say(f"not quiet after {within_s:g} s: nobody answers {error}")
    finally:
        api.deadline = float("inf")
    return False


async def unfinished(watch: Watch, ledger: Ledger, api: Api, system: System) -> dict[str, int]:
    """What is still to come, by name."""
    told = sum(t.callback and not ledger.heard.get(t.task_id) for t in ledger.tasks.values())
    left = {"tasks": len(watch.open), "webhooks": told}
    left["followers"] = 0 if await watch.followed() else 1
    if not any(left.values()):
        wanted = sum(len(frame.labels) for frame in ledger.frames.values() if frame.accepted)
        alerts = await evidence.all_alerts(api)
        left["alerts"] = max(wanted - len(alerts), 0)
        new = len(alerts) - len(ledger.old_alerts) - len(ledger.streamed_alerts)
        left["alerts to follow"] = max(new, 0) if ledger.old_alerts else 0
        left["pictures"] = sum(alert["image_url"] is None for alert in alerts)
        left |= await evidence.waiting(system.admin)
    return {name: count for name, count in left.items() if count}


def keep(options: argparse.Namespace, run: Run, seen: dict[str, int], planned: int) -> None:
    """Add the run's line of JSON where it is wanted."""
    figures: dict[str, Any] = (
        {"seed": options.seed, "minutes": options.minutes}
        | report.row(run.ledger, run.done, seen, run.processes, run.times, run.began, planned)
        | conditions()
        | {"command": f"just chaos {' '.join(sys.argv[1:])}".strip()}
    )
    for path in {options.json, RESULTS if options.keep else None} - {None}:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(json.dumps(figures) + "\n")


def again(options: argparse.Namespace, faults: int) -> str:
    """The arguments that repeat a run."""
    return f"--minutes {options.minutes:g} --seed {options.seed} --faults {faults}"


def say(what: str) -> None:
    """How far it is, on stderr."""
    print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
