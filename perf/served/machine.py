"""The machine that a row was measured on."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

import msgspec


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """What makes two measurements comparable."""

    cpu: str
    cores: int
    simd: str
    """The widest that the CPU has: avx2, avx512, avx512_bf16, amx_bf16."""
    gpus: list[str] = []

    @property
    def name(self) -> str:
        """As people say it."""
        cores = f"{self.cores} core{'s' if self.cores != 1 else ''}"
        return ", ".join([f"{self.cpu} ({self.simd})", cores, *self.gpus])


@cache
def machine() -> Machine:
    """This one."""
    facts = {
        name.strip(): value.strip()
        for name, colon, value in (
            line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines()
        )
        if colon
    }
    flags = facts.get("flags", "").split()
    known = {"amx_bf16": "amx_bf16", "avx512_bf16": "avx512_bf16", "avx512f": "avx512"}
    widest = next((name for flag, name in known.items() if flag in flags), "avx2")
    return Machine(
        cpu=facts.get("model name", "unknown CPU"),
        cores=len(os.sched_getaffinity(0)),
        simd=widest,
        gpus=_gpus(),
    )


def _gpus() -> list[str]:
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, check=False)
    return done.stdout.strip().splitlines() if done.returncode == 0 else []


def gpu_use() -> float:
    """The GPUs' use now, 0 to 1, on average over all of them. Raises ValueError without any."""
    query = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
    done = subprocess.run(query, capture_output=True, text=True, check=True)
    shares = [float(line) / 100 for line in done.stdout.split()]
    if not shares:
        raise ValueError("nvidia-smi names no GPU")
    return sum(shares) / len(shares)
