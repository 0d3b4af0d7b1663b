"""Does to the system what a plan says, and keeps a record of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import psutil
from chaos.cluster import fill, restore
from chaos.load import Load
from chaos.plan import BUSY, KINDS, LEADERS, QUEUES, WORKERS, Fault
from chaos.receiver import Receiver
from chaos.system import System

ALIVE_S = 10.0
"""How long a fault waits for something of its kind to be there."""


WAKING = {"halt", "halt the leader", "restart"}
"""What is not done to a part that is halted: it could not end, or would wake too soon."""


class Done(msgspec.Struct, kw_only=True):
    """A fault as it was done."""

    kind: str
    target: str
    part: str
    """Which part it hit: for a stream, its leader at that moment."""
    at: float
    seconds: float
    real: bool = True
    """False where there was nothing to break."""
    note: str = ""


@dataclass
class Saboteur:
    """Does the faults of a plan."""

    system: System
    load: Load
    receiver: Receiver
    done: list[Done] = field(default_factory=list)
    _still: set[str] = field(default_factory=set)
    """Parts that are halted now."""

    async def do_all(self, faults: Sequence[Fault], spares: Sequence[Fault]) -> None:
        """Each at its time, the next spare one where it broke nothing; returns after the last."""
        began = time.monotonic()
        left = iter(spares)

        async def at_its_time(fault: Fault) -> None:
            await asyncio.sleep(max(began + fault.at_s - time.monotonic(), 0))
            while not await self.do(fault):
                spare = next(left, None)
                if spare is None:
                    return
                fault = spare

        async with asyncio.TaskGroup() as group:
            for fault in faults:
                group.create_task(at_its_time(fault))

    async def do(self, fault: Fault) -> bool:
        """One fault, from its beginning to its end; whether there was something to break."""
        part = await self._part(fault)
        done = Done(
            kind=fault.kind,
            target=fault.target,
            part=part or fault.target,
            at=time.time(),
            seconds=fault.seconds,
        )
        self.done.append(done)
        if part is None:
            done.real, done.note = False, "nothing of the kind ran"
            return False
        try:
            await self._ways[fault.kind](fault, done)
        except (ProcessLookupError, IndexError):
            done.real, done.note = False, "it ended by itself meanwhile"
        return done.real

    async def _part(self, fault: Fault) -> str | None:
        """What the fault hits; where that does not run by itself, another part of its kind."""
        deadline = time.monotonic() + ALIVE_S
        others = [name for name in KINDS[fault.kind].targets if name != fault.target]
        while True:
            for target in (fault.target, *others):
                part = await self.system.queue.leader(target) if target in LEADERS else target
                if part is not None and self._hittable(fault.kind, part):
                    return part
            if time.monotonic() > deadline:
                return None
            await asyncio.sleep(0.1)

    def _hittable(self, kind: str, name: str) -> bool:
        if name == BUSY:
            return not self._still & set(WORKERS)  # whom its end would wake too soon
        part = self.system.parts.get(name)
        if part is None:
            return True
        if name in self._still and kind in WAKING:
            return False
        return part.running and (kind != "kill a child" or len(part.tree) > 1)

    @property
    def _ways(self) -> dict[str, Callable[[Fault, Done], Awaitable[None]]]:
        return {
            "kill": self._kill,
            "kill the leader": self._kill,
            "kill two servers": self._kill_two,
            "kill a child": self._kill_child,
            "halt": self._halt,
            "halt the leader": self._halt,
            "restart": self._restart,
            "step down": self._step_down,
            "cut": self._cut,
            "refuse connections": self._refuse,
            "swallow bytes": self._swallow,
            "triton refuses": self._spoil,
            "triton hangs": self._spoil,
            "triton out of memory": self._spoil,
            "fill a queue": self._fill,
            "fill a stream": self._fill_stream,
            "receiver refuses": self._receiver,
            "receiver away": self._receiver,
        }

    async def _kill(self, _: Fault, done: Done) -> None:
        os.kill(self.system.parts[done.part].process.pid, signal.SIGKILL)

    async def _kill_two(self, _: Fault, done: Done) -> None:
        """The majority is gone: nothing can be accepted until one is back."""
        first = await self.system.queue.leader("JOBS") or QUEUES[0]
        victims = [first, next(name for name in QUEUES if name != first)]
        for name in victims:
            if self.system.parts[name].running:
                os.kill(self.system.parts[name].process.pid, signal.SIGKILL)
        done.part = " and ".join(victims)

    async def _kill_child(self, _: Fault, done: Done) -> None:
        children = sorted(self.system.parts[done.part].tree[1:], key=lambda child: child.pid)
        victim = children[len(children) // 2]
        with contextlib.suppress(psutil.Error):
            done.note = " ".join(Path(word).name for word in victim.cmdline())[:80]
            victim.kill()

    async def _halt(self, fault: Fault, done: Done) -> None:
        await self._halted([done.part], fault.seconds)

    async def _halted(self, names: Sequence[str], seconds: float) -> None:
        """SIGSTOP for parts and all below them, then SIGCONT."""
        processes = [process for name in names for process in self.system.parts[name].tree]
        for process in processes:
            with contextlib.suppress(psutil.Error):
                process.suspend()
        self._still |= set(names)
        try:
            await asyncio.sleep(seconds)
        finally:
            self._still -= set(names)
            for process in processes:
                with contextlib.suppress(psutil.Error):
                    process.resume()

    async def _restart(self, _: Fault, done: Done) -> None:
        if not await self.system.parts[done.part].end():
            self.system.killed.append(f"{done.part} at a restart")

    async def _step_down(self, fault: Fault, done: Done) -> None:
        deadline = time.monotonic() + ALIVE_S
        done.real = False
        while not done.real and time.monotonic() < deadline:
            done.real = await self.system.queue.step_down(fault.target)
            await asyncio.sleep(0.1)

    async def _cut(self, _: Fault, done: Done) -> None:
        done.note = f"{self.system.proxies[done.part].cut()} connections"

    async def _refuse(self, fault: Fault, done: Done) -> None:
        proxy = self.system.proxies[done.part]
        proxy.refuse()
        try:
            await asyncio.sleep(fault.seconds)
        finally:
            proxy.refusing = False

    async def _swallow(self, fault: Fault, done: Done) -> None:
        proxy = self.system.proxies[done.part]
        proxy.swallowing = True
        try:
            await asyncio.sleep(fault.seconds)
        finally:
            proxy.swallowing = False

    async def _spoil(self, fault: Fault, done: Done) -> None:
        door = self.system.doors[done.part]
        before, door.mood = door.spoilt, fault.kind
        try:
            await asyncio.sleep(fault.seconds)
        finally:
            door.mood = ""
            done.note = f"{door.spoilt - before} calls"

    async def _fill(self, fault: Fault, done: Done) -> None:
        """Nobody takes anything, and one camera sends more than may wait."""
        before = self.load.api.refusals["503"] + self.load.api.refusals["429"]
        sending = asyncio.create_task(self.load.burst())
        await self._halted(WORKERS, fault.seconds)
        refused = self.load.api.refusals["503"] + self.load.api.refusals["429"] - before
        done.note = f"{refused} refused meanwhile"
        await sending

    async def _fill_stream(self, fault: Fault, done: Done) -> None:
        """The stream has no room for a byte, as when its disk quota is used up."""
        before = await fill(self.system.admin, fault.target)
        if before is None:
            done.real, done.note = False, "nobody led it, or it was full"
            return
        try:
            await asyncio.sleep(fault.seconds)
        finally:
            await restore(self.system.admin, before)

    async def _receiver(self, fault: Fault, _: Done) -> None:
        self.receiver.mood = fault.kind
        try:
            await asyncio.sleep(fault.seconds)
        finally:
            self.receiver.mood = ""
