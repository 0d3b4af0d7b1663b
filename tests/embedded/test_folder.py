from __future__ import annotations

import json
import os
import socket
import stat
import sys
from asyncio import create_subprocess_exec
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

from functions._kit.errors import Conflict
from gateway.embedded import DataFolder, folder

HOLDER = """
import asyncio, pathlib, sys
from gateway.embedded import DataFolder
folder = DataFolder(pathlib.Path(sys.argv[1]))
asyncio.run(folder.open())
print("open", flush=True)
sys.stdin.read()
"""


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def test_a_second_owner_is_refused_with_the_process_of_the_first(tmp_path: Path) -> None:
    holder = await create_subprocess_exec(
        sys.executable, "-c", HOLDER, str(tmp_path), stdin=PIPE, stdout=PIPE
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    try:
        assert await holder.stdout.readline() == b"open\n"
        with pytest.raises(Conflict, match=f"in use by process {holder.pid}.*--data") as caught:
            await DataFolder(tmp_path).open()
        assert caught.value.code == "data_in_use"
    finally:
        holder.stdin.close()
        await holder.wait()
    folder = DataFolder(tmp_path)
    await folder.open()
    folder.close()


async def test_what_others_must_not_read_is_theirs_alone(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o755)
    folder = DataFolder(data)
    await folder.open()
    folder.secret("s3_secret_key")
    assert mode(data) == 0o700
    assert mode(data / "credentials.json") == 0o600
    assert mode(folder.write("nats.conf", "{}")) == 0o600
    folder.close()


async def test_secrets_are_made_once(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path)
    first = folder.secret("a")
    assert len(first) == 64
    assert folder.secret("b") != first
    assert DataFolder(tmp_path).secret("a") == first


def test_damaged_credentials_are_refused_and_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "credentials.json").write_text('{"s3_secret')
    with pytest.raises(Conflict, match=r"credentials\.json"):
        DataFolder(tmp_path).secret("s3_secret_key")
    assert (tmp_path / "credentials.json").read_text() == '{"s3_secret'


def test_a_port_is_kept_while_it_is_free(tmp_path: Path) -> None:
    earlier = DataFolder(tmp_path)
    first = earlier.port("nats")
    earlier.close()
    later = DataFolder(tmp_path)
    assert later.port("nats") == first
    later.close()
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", first))
        other.listen()
        assert DataFolder(tmp_path).port("nats") not in {0, first}


def test_two_servers_never_share_a_port(tmp_path: Path) -> None:
    (tmp_path / "ports.json").write_text(json.dumps({"nats": "23456", "s3": "23456"}))
    folder = DataFolder(tmp_path)
    assert folder.port("nats") != folder.port("s3")


async def test_the_lock_lasts_as_long_as_a_server_that_inherited_it(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path)
    await folder.open()
    server = await create_subprocess_exec("cat", stdin=PIPE, pass_fds=(folder.lock_fd,))
    folder.close()
    with pytest.raises(Conflict):  # our own process, which wrote the lock, is alive
        await DataFolder(tmp_path).open()
    assert server.stdin is not None
    server.stdin.close()
    await server.wait()
    await folder.open()
    assert os.pread(folder.lock_fd, 20, 0) == str(os.getpid()).encode()
    folder.close()


async def test_two_folders_never_choose_one_port(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder, "PORTS", range(20_001, 20_003))
    one, other = DataFolder(tmp_path / "one"), DataFolder(tmp_path / "other")
    await one.open()
    await other.open()
    assert {one.port("nats"), other.port("nats")} == {20_001, 20_002}
    one.close()
    other.close()
