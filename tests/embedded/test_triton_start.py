"""A Triton that crashes while it starts is started again, one that refuses is not."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.embedded import DataFolder, StartError, TritonSettings
from gateway.embedded import triton as embedded_triton

SERVER = """#!{python}
import http.server, os, pathlib, sys

with pathlib.Path({starts!r}).open("a") as file:
    file.write(".")
if pathlib.Path({starts!r}).stat().st_size <= {failures}:
    {failing}
port = next(a.partition("=")[2] for a in sys.argv if a.startswith("--http-port="))

class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

http.server.HTTPServer(("127.0.0.1", int(port)), Ready).serve_forever()
"""
ABORTS, EXITS = "os.abort()", "sys.exit(1)"


def hasty(folder: Path, failures: int, failing: str) -> tuple[TritonSettings, Path]:
    """A Triton that fails at its first starts, and the file that is as long as its starts."""
    version = f"python3.{sys.version_info.minor}"
    server = folder / "lib" / version / "site-packages" / "pytriton" / "tritonserver"
    stub = server / "python_backend_stubs" / version[len("python") :] / "triton_python_backend_stub"
    for parent in (server / "bin", server / "backends" / "python", stub.parent):
        parent.mkdir(parents=True)
    stub.touch()
    (folder / "pyvenv.cfg").write_text(f"home = {Path(sys.executable).parent}\n")
    starts = folder / "starts"
    executable = server / "bin" / "tritonserver"
    executable.write_text(
        SERVER.format(python=sys.executable, starts=str(starts), failures=failures, failing=failing)
    )
    executable.chmod(0o755)
    repository = folder / "models"
    repository.mkdir()
    return TritonSettings(environment=folder, repository=repository), starts


@pytest.fixture
async def data(tmp_path: Path) -> AsyncIterator[DataFolder]:
    folder = DataFolder(tmp_path / "data")
    await folder.open()
    yield folder
    folder.close()


async def test_a_crash_at_the_start_is_outlived(tmp_path: Path, data: DataFolder) -> None:
    settings, starts = hasty(tmp_path / "triton", 2, ABORTS)
    running = await embedded_triton.start(data, settings)
    await running.process.stop()
    assert len(starts.read_text()) == 3


@pytest.mark.parametrize(("failing", "tries"), [(ABORTS, 3), (EXITS, 1)])
async def test_who_never_starts_is_told(
    tmp_path: Path, data: DataFolder, failing: str, tries: int
) -> None:
    settings, starts = hasty(tmp_path / "triton", 9, failing)
    with pytest.raises(StartError) as caught:
        await embedded_triton.start(data, settings)
    assert len(starts.read_text()) == tries
    assert caught.value.crashed is (failing == ABORTS)
