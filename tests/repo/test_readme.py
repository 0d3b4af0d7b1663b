"""The README's commands run: its tour is executed as a reader would type it."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.embedded.folder import DataFolder
from gateway.settings import CHECKOUT

README = (CHECKOUT / "README.md").read_text()
BLOCKS: list[str] = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
BIN = Path(sys.executable).parent


def block_with(text: str) -> str:
    (found,) = [block for block in BLOCKS if text in block]
    return found


def test_both_first_commands_are_recipes_of_the_justfile() -> None:
    recipes = re.findall(
        r"^([a-z][\w-]*)(?: \*?\w+)*:", (CHECKOUT / "justfile").read_text(), re.MULTILINE
    )
    named = re.findall(r"python3 scripts/bootstrap\.py ([\w-]+)", README)
    assert {"demo", "test"} <= set(named) <= set(recipes)


def test_every_nereid_command_of_the_readme_exists() -> None:
    for words in set(re.findall(r"(?:^|\s)nereid ((?:clients|models) \w+|\w+)", "\n".join(BLOCKS))):
        done = subprocess.run(
            [str(BIN / "nereid"), *words.split(), "--help"], capture_output=True, check=False
        )
        assert done.returncode == 0, words


@pytest.mark.skipif(shutil.which("curl") is None, reason="the tour is typed with curl")
def test_the_tour_gives_what_it_promises(tmp_path: Path) -> None:
    """Runs the tour's block in a shell, on a system of its own."""
    script = tmp_path / "tour.sh"
    claimed = DataFolder(tmp_path / "claimed")  # no other test's server takes the port
    asyncio.run(claimed.open())
    port = claimed.port("gateway")
    start = f"""
set -euo pipefail
export PATH={BIN}:$PATH NEREID_DATA={tmp_path}/data NEREID_PORT={port}
cd {CHECKOUT}
nereid up > {tmp_path}/up.log 2>&1 &
up=$!
trap 'kill -TERM $up; wait $up || true' EXIT
for _ in $(seq 1200); do
    grep -q '^models    loaded' {tmp_path}/up.log && break
    kill -0 $up || {{ cat {tmp_path}/up.log; exit 1; }}
    sleep 0.1
done
cd {tmp_path}
cp {CHECKOUT}/tests/data/coffee.png photo.png
cp {CHECKOUT}/tests/data/sounds/two_cities.opus voice.opus
"""
    stops = ("api/v1/media:process", "api/v1/frames", "api/v1/translate_audio")
    tour = "".join(block_with(stop) for stop in stops)
    script.write_text(start + tour.replace("localhost:8000", f"localhost:{port}"))
    done = subprocess.run(
        ["bash", str(script)], capture_output=True, text=True, timeout=280, check=False
    )
    claimed.close()
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"status":"completed"' in done.stdout.replace(": ", ":")
    assert (tmp_path / "enlarged.png").stat().st_size > 100_000
    heard = (tmp_path / "alerts.txt").read_text()
    assert "event: alert" in heard
    assert "event: image" in heard
    assert done.stdout.count("It was the best of times") == 2
    assert (tmp_path / "voice.mp3").stat().st_size > 20_000
    assert done.stdout.count('"label":"cup"') > heard.count('"label":"cup"') > 0
