from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# Runs alone in a process: its peak is then the work's own. Prints MiB beyond the start.
MEASURE = """
import gc, sys
from pathlib import Path
import numpy as np
from functions._kit.pictures import decode, encode

def anonymous():
    for line in open("/proc/self/status"):
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024

folder = Path(sys.argv[1])
big = np.memmap(folder / "raw", np.uint8, "w+", shape=(4000, 6000, 3))
ramp = np.arange(6000, dtype=np.uint16)
for y in range(4000):
    big[y] = ((ramp[:, None] * (1, 3, 5) + y * 7) >> 3).astype(np.uint8)
big.flush()
"""
ENCODE = """
import threading
before = highest = anonymous()
done = threading.Event()

def watch():
    global highest
    while not done.is_set():
        highest = max(highest, anonymous())

watcher = threading.Thread(target=watch)
watcher.start()
size = (4500, 3000) if sys.argv[3] == "reduced" else None
encode(big, None, folder / "out", format=sys.argv[2], quality=90, size=size)
done.set()
watcher.join()
print(highest - before)
"""
DECODE = """
encode(big, None, folder / "out", format=sys.argv[2])
del big
gc.collect()
"""
DECODE_ALONE = """
import sys
from pathlib import Path
import resource
from functions._kit.pictures import decode
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
decode(Path(sys.argv[1]) / "out")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before)
"""


def run(script: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.mark.parametrize(
    "name",
    [
        "jpeg",
        pytest.param("png", marks=pytest.mark.long),
        pytest.param("tiff", marks=pytest.mark.long),
    ],
)
def test_a_large_picture_costs_little_beyond_its_pixels(tmp_path: Path, name: str) -> None:
    run(MEASURE + DECODE, str(tmp_path), name)
    pixels_mib = 6000 * 4000 * 3 / 2**20
    assert float(run(DECODE_ALONE, str(tmp_path))) < pixels_mib + 40
    for size in ("whole", "reduced"):
        (tmp_path / "out").unlink()
        assert float(run(MEASURE + ENCODE, str(tmp_path), name, size)) < 40
